// Entry of the page: what is shown, and who is told when it changes.
import {baseOf, choosePair, getJSON, tilejsonOf} from './api.js';
import {Areas} from './areas.js';
import {at, say, showMessage} from './dom.js';
import {hearParent, isEmbedded, tellParent} from './embed.js';
import {errorTiles, showErrorLegend} from './errors.js';
import {watchExports} from './exports.js';
import {watchKeys, watchTheme} from './keys.js';
import {Prediction, extentOf, pictureLayer, sharpened} from './layers.js';
import {classesOf, showLegend} from './legend.js';
import {Panes} from './panes.js';
import {showPicker} from './picker.js';
import {watchClicks, watchPointer} from './point.js';
import {countTiles, showCounts} from './progress.js';
import {format, parse} from './state.js';
import {watchUse} from './use.js';
import {waitingLayer} from './waiting.js';

const CLOSER = 3; // zooms beyond the model's own pixels that the view allows
const REMEMBER_MS = 200;
const STEP = 5; // percent of opacity that a key changes

class Viewer {
  constructor(pairs) {
    this.pairs = pairs;
    this.state = parse(location.hash);
    this.panes = new Panes(new ol.View());
    this.map = this.panes.main;
    this.shown = []; // layers of the present pair, of all panes
    this.marked = [];
    this.waiting = waitingLayer(() => this.marked);
    this.map.addLayer(this.waiting);
    const current = () => this.current();
    this.areas = new Areas(this.map, current);
    this.clicks = watchClicks(this.map, current);
    watchPointer(this.map, current);
    watchUse(current);
    this.wire();
  }

  current() {
    const {base, tilejson, classes, state, pair, prediction} = this;
    return {base, tilejson, classes, state, pair, prediction, drawing: this.areas.drawing};
  }

  /** Show a pair; the layers before it stay until the first of its tiles is drawn. */
  async open(pair, revision = null) {
    const turn = this.turn = {};
    const {tilejson, moved} = await tilejsonOf(pair, revision);
    if (turn !== this.turn) return; // another was picked meanwhile
    if (moved) say(`Revision ${revision} is no longer here; this is ${tilejson.revision}.`);
    const sameScene = this.pair?.scene === pair.scene;
    Object.assign(this, {pair, tilejson, base: baseOf(tilejson), classes: classesOf(tilejson, this.state)});
    Object.assign(this.state, {scene: pair.scene, model: pair.model, revision: tilejson.revision});
    if (!sameScene) this.place();
    this.layer();
    this.panel();
    this.clicks.forget();
    this.areas.later();
    this.exports?.offer(tilejson);
    this.remember();
  }

  /** The view that the address names, else the whole scene if its prediction can be seen from there, else its middle. */
  place() {
    const {tilejson, state} = this;
    // Whole zooms keep a tile's pixels on the screen's pixels.
    const view = new ol.View({constrainResolution: true, maxZoom: tilejson.maxzoom + CLOSER});
    this.panes.setView(view);
    if (state.view) {
      view.setCenter(ol.proj.fromLonLat([state.view.lon, state.view.lat]));
      view.setZoom(state.view.zoom);
    } else {
      view.fit(extentOf(tilejson.bounds), {padding: [24, 24 + coveredOnTheRight(), 24, 24], size: this.map.getSize()});
      if (view.getZoom() < tilejson.minzoom) {
        if (tilejson.center) view.setCenter(ol.proj.fromLonLat(tilejson.center.slice(0, 2)));
        view.setZoom(tilejson.minzoom);
      }
    }
    state.view = null; // another scene has another place
    view.on('change:resolution', () => this.look());
    view.on('propertychange', () => this.soon());
  }

  layer() {
    const {base, tilejson, classes, state, pair} = this, before = this.shown, old = this.prediction;
    const prediction = this.prediction = new Prediction({
      base, tilejson, classes, settings: state, onChange: () => this.look(),
    });
    this.shown = [[this.map, prediction.layer]];
    const add = (map, layer) => { this.shown.push([map, layer]); return layer; };
    this.imagery = [];
    if (pair.imagery) {
      this.imagery = [this.map, this.panes.imagery].map(map => add(map, pictureLayer(pair.imagery, tilejson)));
    }
    const labels = pair.labels && `${pair.scene}/labels/{z}/{x}/{y}.png?model=${encodeURIComponent(pair.model)}&v=${pair.labels_version ?? ''}`;
    const numbers = {numbers: true, sharp: true};
    this.labels = labels ? [add(this.map, pictureLayer(labels, tilejson, {...numbers, className: 'answer labels'}))] : [];
    if (labels) add(this.panes.labels, pictureLayer(labels, tilejson, numbers));
    this.errors = labels ? [add(this.map, pictureLayer(errorTiles(this), tilejson, {...numbers, className: 'answer errors', minZoom: tilejson.minzoom - 0.5}))] : [];
    for (const layer of this.labels) layer.setZIndex(11);
    for (const layer of this.errors) layer.setZIndex(12);
    for (const layer of this.imagery) layer.setZIndex(1);
    for (const [map, layer] of this.shown) map.addLayer(layer);

    old?.stop();
    let gone = false;
    const leave = () => {
      if (gone) return;
      gone = true;
      for (const [map, layer] of before) map.removeLayer(layer);
    };
    if (before.length) {
      const drawn = () => this.map.once('postrender', () => { if (prediction.loader.kept.size) leave(); });
      prediction.source.on('tileloadend', drawn);
      this.map.once('rendercomplete', leave); // nothing to load here: out of the scene, or too far away
    }
    this.apply();
    this.look();
  }

  panel() {
    const {pair, tilejson, classes, state} = this;
    const title = pair.title || tilejson.name || `${pair.scene} · ${pair.model}`;
    at('title').textContent = title;
    at('subtitle').textContent = `scene ${pair.scene} · model ${pair.model} · revision ${tilejson.revision}`;
    document.title = `${title} – titiler-inference`;
    at('panel').hidden = isEmbedded();
    for (const node of document.querySelectorAll('[data-labels]')) {
      if (node.id !== 'stage') node.hidden = !pair.labels;
    }
    showPicker(this.pairs, pair, chosen => {
      if (chosen.model !== state.model) Object.assign(state, {visible: null, colors: {}, errors: null}); // numbers of another model
      this.open(chosen).catch(error => say(error.message));
    });
    showLegend(tilejson, classes, state, change => {
      this.prediction.restyle(change);
      this.remember();
      if (!change.recoloured) this.areas.later();
    });
  }

  /** Opacity, mode and visible layers, from the state. */
  apply() {
    const {state, pair} = this;
    const shows = name => state.layers.includes(name);
    for (const layer of this.imagery) layer.setVisible(shows('imagery') || layer !== this.imagery[0]);
    this.prediction.layer.setVisible(shows('prediction'));
    this.prediction.layer.setOpacity(state.opacity / 100);
    for (const layer of this.labels) layer.setVisible(shows('labels'));
    for (const layer of this.errors) layer.setVisible(shows('errors'));
    showErrorLegend(this, shows('errors') && pair.labels, () => {
      for (const layer of this.errors) layer.getSource().setUrl(sharpened(errorTiles(this)));
      this.set({});
    });
    this.panes.show(state.mode, pair.labels);
    this.panes.swipe(state.swipe);
    at('opacity').value = state.opacity;
    at('opacity-value').textContent = `${state.opacity} %`;
    at('swipe').value = state.swipe;
    for (const box of document.querySelectorAll('#layers input')) box.checked = shows(box.value);
    for (const radio of document.querySelectorAll('#modes input')) radio.checked = radio.value === state.mode;
  }

  set(change) {
    Object.assign(this.state, change);
    this.apply();
    this.remember();
  }

  /** The swipe's line alone: it is moved often, and moves nothing but a clip. */
  slide(share) {
    this.state.swipe = share;
    this.panes.swipe(share);
    this.remember();
  }

  wire() {
    const toggle = name => {
      const {layers} = this.state;
      this.set({layers: layers.includes(name) ? layers.filter(item => item !== name) : [...layers, name]});
    };
    const fade = opacity => this.set({opacity: Math.max(0, Math.min(100, opacity))});
    at('opacity').oninput = () => fade(Number(at('opacity').value));
    at('swipe').oninput = () => this.slide(Number(at('swipe').value));
    for (const box of document.querySelectorAll('#layers input')) box.onchange = () => toggle(box.value);
    for (const radio of document.querySelectorAll('#modes input')) radio.onchange = () => this.set({mode: radio.value});
    at('retry').onclick = () => this.prediction.retry();
    at('zoom-in').onclick = () => this.panes.view.animate({zoom: this.tilejson.minzoom, duration: 250});
    const modes = ['over', 'swipe', 'side'];
    watchKeys({
      a: ['Prediction clear', () => fade(0)],
      s: ['Prediction fainter', () => fade(this.state.opacity - STEP)],
      d: ['Prediction stronger', () => fade(this.state.opacity + STEP)],
      f: ['Prediction opaque', () => fade(100)],
      m: ['Over, swipe, side by side', () => this.set({mode: modes[(modes.indexOf(this.state.mode) + 1) % 3]})],
      i: ['Imagery on or off', () => toggle('imagery')],
      p: ['Draw a polygon, or stop', () => at('draw').click()],
      v: ['Measure this view', () => { at('area').open = true; this.areas.useView(); }],
      u: ['Use this layer in …', () => at('use').click()],
      Escape: ['Stop drawing', () => { if (this.areas.drawing) say('Drawing is given up.'); this.areas.stopDrawing(); }],
      '?': ['These keys', () => at('help-dialog').showModal()],
    });
    this.map.on('moveend', () => this.remember());
    addEventListener('hashchange', () => { if (location.hash !== this.written) location.reload(); });
    hearParent(({view, opacity}) => {
      if (view) {
        this.panes.view.setCenter(ol.proj.fromLonLat([view.lon, view.lat]));
        this.panes.view.setZoom(view.zoom);
      }
      if (Number.isFinite(opacity)) fade(opacity);
    });
  }

  /** Put the state into the address, and tell the page around; not at every step of a slider, which browsers forbid. */
  remember() {
    clearTimeout(this.later);
    this.later = setTimeout(() => this.write(), REMEMBER_MS);
  }

  write() {
    const {view} = this.panes, center = view.getCenter();
    if (!center || !this.tilejson) return;
    const [lon, lat] = ol.proj.toLonLat(center), place = {zoom: view.getZoom(), lat, lon};
    this.written = format({...this.state, view: place});
    history.replaceState(null, '', this.written);
    const extent = this.panes.seen();
    tellParent({...this, view: place, extent: extent && ol.proj.transformExtent(extent, 'EPSG:3857', 'EPSG:4326')});
  }

  /** After the view has come to rest: requests of tiles outside of it are closed. A pan or zoom is many events. */
  soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      const extent = this.panes.seen();
      if (!extent || !this.prediction) return;
      const wanted = new Set(this.prediction.tilesIn(extent, this.panes.view.getResolution()).map(tile => tile.join('/')));
      this.prediction.loader.prune((z, x, y) => wanted.has(`${z}/${x}/${y}`));
      this.look();
    }, 100);
  }

  /** Count the view's tiles again, at the next frame. */
  look() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      const extent = this.panes.seen(), {prediction, panes} = this;
      if (!extent || !prediction) return;
      const near = panes.view.getZoom() > prediction.layer.getMinZoom();
      at('note').hidden = near;
      const on = near && prediction.layer.getVisible();
      const {counts, marked} = on
        ? countTiles(prediction, extent, panes.view.getResolution())
        : {counts: {queued: 0, running: 0, done: 0, failed: 0}, marked: []};
      this.marked = marked;
      this.waiting.changed();
      showCounts(counts);
    });
  }
}

/** Width of the map that lies under the panel: none on a phone, where the panel is below it. */
function coveredOnTheRight() {
  const node = at('panel');
  return !node.hidden && getComputedStyle(node).position === 'absolute' ? node.offsetWidth : 0;
}

async function start() {
  watchTheme();
  if (isEmbedded()) document.documentElement.classList.add('embed');
  if (!window.ol) {
    showMessage('The map library is missing', 'OpenLayers is not part of the repository. ' +
      'Fetch it with this command in the environment of the server, then load the page again:', 'python -m tiler.vendor');
    return;
  }
  const pairs = await getJSON('api/pairs');
  if (!pairs.length) throw new Error('The server has no scene with a model: name one in its settings.');
  at('panel').hidden = isEmbedded();
  // On a phone the map comes first; the legend is one touch away.
  at('legend').open = window.matchMedia('(min-width: 641px)').matches;
  const viewer = window.viewer = new Viewer(pairs);
  const asked = new URLSearchParams(location.search), {state} = viewer;
  const names = {scene: state.scene ?? asked.get('scene'), model: state.model ?? asked.get('model')};
  await viewer.open(choosePair(pairs, names), state.revision);
  const box = () => ol.proj.transformExtent(viewer.panes.seen(), 'EPSG:3857', 'EPSG:4326');
  viewer.exports = await watchExports(() => viewer.current(), box, () => viewer.areas.feature());
  viewer.exports?.offer(viewer.tilejson);
}

start().catch(error => showMessage('The map cannot be shown', error.message));
