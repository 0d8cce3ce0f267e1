// An area, drawn or the view: how much of each class there is in it, and how right that is where labels are.
import {postJSON} from './api.js';
import {at, bar, make, save, say} from './dom.js';
import {matrixOf, measuresOf} from './accuracy.js';
import {watchCorners} from './corners.js';

const SETTLE_MS = 150; // a corner that is dragged is many events

export class Areas {
  /** `current()` tells {base, tilejson, state, classes, pair}; the polygon is drawn on `map`. */
  constructor(map, current) {
    Object.assign(this, {map, current, found: null, judged: null});
    this.source = new ol.source.Vector();
    const line = new ol.style.Stroke({color: '#fff', width: 4}), inner = new ol.style.Stroke({color: '#0b63c5', width: 2});
    const corner = new ol.style.Circle({radius: 6, fill: new ol.style.Fill({color: '#0b63c5'}), stroke: new ol.style.Stroke({color: '#fff', width: 2})});
    this.style = [new ol.style.Style({stroke: line}), new ol.style.Style({stroke: inner, image: corner, fill: new ol.style.Fill({color: 'rgba(11,99,197,.08)'})})];
    map.addLayer(new ol.layer.Vector({source: this.source, style: this.style, zIndex: 30}));
    this.modify = new ol.interaction.Modify({source: this.source, style: this.style});
    map.addInteraction(this.modify);
    this.source.on(['addfeature', 'changefeature', 'removefeature', 'clear'], () => this.later());
    this.abort = new AbortController();
    watchCorners(map, () => this.interaction);
    at('draw').onclick = () => this.drawing ? this.stopDrawing() : this.draw();
    at('view-area').onclick = () => this.useView();
    at('clear-area').onclick = () => this.clear();
    at('area-csv').onclick = () => save('areas.csv', this.csv(), 'text/csv');
    at('area-geojson').onclick = () => save('area.geojson', JSON.stringify(this.geojson(), null, 1), 'application/geo+json');
    at('area-judge').onclick = () => this.judge();
  }

  get drawing() {
    return Boolean(this.interaction);
  }

  draw() {
    this.clear();
    at('area').open = true;
    at('draw').textContent = 'Stop drawing';
    at('draw').setAttribute('aria-pressed', 'true');
    this.interaction = new ol.interaction.Draw({source: this.source, type: 'Polygon', style: this.style});
    this.interaction.on('drawstart', ({feature}) => {
      this.source.clear();
      feature.getGeometry().on('change', () => this.later(feature)); // live, while it is drawn
    });
    this.interaction.on('drawend', () => {
      this.interaction.setActive(false); // the second click of a double one begins no new polygon
      setTimeout(() => this.stopDrawing());
    });
    this.map.addInteraction(this.interaction);
    const target = this.map.getTargetElement();
    target.dataset.drawing = '';
    target.focus({preventScroll: true});
    say('Click each corner, a double click ends it. Or: arrows, Enter for a corner, twice ends it.');
  }

  stopDrawing() {
    if (this.interaction) this.map.removeInteraction(this.interaction);
    this.interaction = null;
    delete this.map.getTargetElement().dataset.drawing;
    at('draw').textContent = 'Draw a polygon';
    at('draw').setAttribute('aria-pressed', 'false');
  }

  useView() {
    this.stopDrawing();
    this.source.clear();
    const {tilejson} = this.current();
    const [west, south, east, north] = ol.proj.transformExtent(this.map.getView().calculateExtent(this.map.getSize()), 'EPSG:3857', 'EPSG:4326');
    const [w, s, e, n] = tilejson.bounds;
    const box = [Math.max(west, w), Math.max(south, s), Math.min(east, e), Math.min(north, n)];
    if (box[0] >= box[2] || box[1] >= box[3]) return say('The scene is not in view.');
    this.source.addFeature(new ol.Feature(ol.geom.Polygon.fromExtent(ol.proj.transformExtent(box, 'EPSG:4326', 'EPSG:3857'))));
  }

  clear() {
    this.stopDrawing();
    this.source.clear();
  }

  /** The polygon as a GeoJSON Feature in degrees, null if there is none. */
  feature(given) {
    const feature = given ?? this.source.getFeatures()[0];
    if (!feature || feature.getGeometry().getCoordinates()[0].length < 4) return null;
    return new ol.format.GeoJSON({featureProjection: 'EPSG:3857'}).writeFeatureObject(
      new ol.Feature(feature.getGeometry().clone()), {decimals: 8, rightHanded: true});
  }

  /** Count again, once nothing has changed for a moment. The request before is given up. */
  later(given) {
    clearTimeout(this.timer);
    this.abort.abort();
    this.timer = setTimeout(() => this.count(given).catch(error => { if (error.name !== 'AbortError') throw error; }), SETTLE_MS);
    for (const option of document.querySelectorAll('#export-what option[value=polygon]')) option.disabled = !this.feature(given);
  }

  async count(given) {
    const feature = this.feature(given), {base, tilejson, state, pair} = this.current();
    const asked = JSON.stringify([feature, base, state.threshold]);
    if (this.found?.asked === asked) return;
    this.found = this.judged = null;
    at('area-files').hidden = true;
    at('accuracy-answer').replaceChildren();
    if (!feature || tilejson.kind !== 'classes') {
      at('area-answer').replaceChildren(...(feature ? [make('p', {text: 'This model has no classes to measure.'})] : []));
      return;
    }
    const {signal} = this.abort = new AbortController();
    at('area-answer').setAttribute('aria-busy', 'true');
    try {
      const query = state.threshold ? `?threshold=${state.threshold / 100}` : '';
      this.found = {asked, feature, ...await postJSON(`${base}/areas${query}`, feature, signal)};
      at('area-answer').replaceChildren(tableOf(this.found));
      at('area-files').hidden = false;
      at('area-judge').hidden = !pair.labels;
    } catch (error) {
      if (signal.aborted) return;
      at('area-answer').replaceChildren(make('p', {text: error.message}));
    } finally {
      if (!signal.aborted) at('area-answer').removeAttribute('aria-busy');
    }
  }

  async judge() {
    const {base, state} = this.current(), {signal} = this.abort = new AbortController();
    const cancel = make('button', {type: 'button', className: 'plain', text: 'Cancel', onclick: () => this.abort.abort()});
    at('accuracy-answer').replaceChildren(make('p', {className: 'row'}, make('span', {text: 'Comparing …'}), cancel));
    try {
      const query = state.threshold ? `?threshold=${state.threshold / 100}` : '';
      this.judged = await postJSON(`${base}/accuracy${query}`, this.feature(), signal);
      at('accuracy-answer').replaceChildren(measuresOf(this.judged), matrixOf(this.judged));
    } catch (error) {
      at('accuracy-answer').replaceChildren(make('p', {text: signal.aborted ? 'Cancelled.' : error.message}));
    }
  }

  csv() {
    const rows = [['value', 'class', 'pixels', 'hectares', 'percent']];
    for (const {value, name, pixels, hectares, percent} of this.found.classes) rows.push([value, name, pixels, hectares, percent]);
    if (this.judged) {
      rows.push([], ['class', 'iou', 'f1', 'precision', 'recall']);
      for (const {name, iou, f1, precision, recall} of this.judged.classes) rows.push([name, iou, f1, precision, recall]);
      rows.push(['overall accuracy', this.judged.overall_accuracy]);
    }
    return rows.map(row => row.map(quoted).join(',')).join('\r\n') + '\r\n';
  }

  geojson() {
    const {feature, classes, model, gsd, hectares} = this.found;
    return {...feature, properties: {model, gsd, hectares, classes, ...(this.judged && {accuracy: this.judged})}};
  }
}

function quoted(value) {
  const text = String(value ?? '');
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function tableOf({classes, hectares, no_prediction: missing}) {
  const rows = classes.filter(item => item.pixels).sort((a, b) => b.pixels - a.pixels);
  const cells = ({name, color, hectares: size, percent}) => make('tr', {}, make('th', {scope: 'row', text: name}),
    make('td', {}, bar(percent / 100, color)), make('td', {className: 'number', text: haOf(size)}), make('td', {className: 'number', text: `${percent.toFixed(1)} %`}));
  return make('div', {},
    make('table', {className: 'areas'}, make('caption', {text: `${haOf(hectares)} with a prediction`}),
      make('thead', {}, make('tr', {}, ...['Class', 'Share', 'Area', '%'].map(text => make('th', {scope: 'col', text})))),
      make('tbody', {}, ...rows.map(cells))),
    missing?.pixels ? make('p', {className: 'quiet', text: `${haOf(missing.hectares)} without a prediction, not part of the 100 %`}) : null);
}

const haOf = hectares => `${hectares < 10 ? hectares.toFixed(2) : hectares.toFixed(hectares < 1000 ? 1 : 0)} ha`;

