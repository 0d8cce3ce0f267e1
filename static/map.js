// Entry of the simple page: choose a scene and a model, draw the map, wire the panel.
import {absolute, answerAt, choosePair, getJSON} from './api.js';
import {extentOf, imageryLayer, predictionLayer, shownFrom} from './layers.js';
import * as panel from './panel.js';

const CLOSER = 3; // zooms beyond the model's own pixels that the view allows

async function start() {
  if (!window.ol) {
    panel.showMessage('The map library is missing', 'OpenLayers is not part of the repository. ' +
      'Fetch it with this command in the environment of the server, then load the page again:', 'python -m tiler.vendor');
    return;
  }
  const pairs = await getJSON('api/pairs');
  if (!pairs.length) throw new Error('The server has no scene with a model: name one in its settings.');
  const pair = choosePair(pairs, location.search);
  const tilejson = await getJSON(pair.tilejson);

  panel.showPairs(pairs, pair);
  panel.showPair(pair, tilejson);
  panel.showLegend(tilejson);
  panel.offerCopy(absolute(tilejson.tiles[0]));
  drawMap(pair, tilejson);
}

function drawMap(pair, tilejson) {
  const map = new ol.Map({
    target: 'map',
    controls: ol.control.defaults.defaults({attributionOptions: {collapsible: false}}).extend([new ol.control.ScaleLine()]),
    // The map is the whole page, so the wheel works before the first click; keys still want the focus.
    interactions: ol.interaction.defaults.defaults({onFocusOnly: false}),
    // Whole zooms keep a tile's pixels on the screen's pixels.
    view: new ol.View({constrainResolution: true, maxZoom: tilejson.maxzoom + CLOSER}),
  });
  const {layer, retry} = predictionLayer(map, tilejson, panel.showTraffic);
  if (pair.imagery) map.addLayer(imageryLayer(pair.imagery, tilejson));
  map.addLayer(layer);
  panel.onOpacity(value => layer.setOpacity(value));
  panel.onRetry(retry);
  place(map.getView(), tilejson);
  watchZoom(map.getView(), tilejson);
  if (tilejson.point) watchClicks(map, tilejson);
}

/** The whole scene if its prediction can be seen from there, else the middle of it from as far as it can. */
function place(view, tilejson) {
  view.fit(extentOf(tilejson.bounds), {padding: [24, 24 + panel.coveredOnTheRight(), 24, 24]});
  if (view.getZoom() >= tilejson.minzoom) return;
  if (tilejson.center) view.setCenter(ol.proj.fromLonLat(tilejson.center.slice(0, 2)));
  view.setZoom(tilejson.minzoom);
}

function watchZoom(view, tilejson) {
  const zoomIn = () => view.animate({zoom: tilejson.minzoom, duration: 250});
  const check = () => panel.showZoomNote(view.getZoom() > shownFrom(tilejson), zoomIn);
  view.on('change:resolution', check);
  check();
}

function watchClicks(map, tilejson) {
  const mark = document.createElement('div');
  mark.className = 'mark';
  const overlay = new ol.Overlay({element: mark, positioning: 'center-center', stopEvent: false});
  map.addOverlay(overlay);
  let last = new AbortController();

  map.on('singleclick', async ({coordinate}) => {
    last.abort(); // only the newest click is waited for
    const {signal} = last = new AbortController();
    const place = ol.proj.toLonLat(coordinate);
    overlay.setPosition(coordinate);
    panel.showPoint('…', null, place);
    try {
      const found = await answerAt(tilejson, place, signal);
      if (found) panel.showPoint(found.text, found.color, place);
      else panel.showPoint('No prediction here', null, place);
    } catch (error) {
      if (!signal.aborted) panel.showPoint(error.message, null, place);
    }
  });
}

start().catch(error => panel.showMessage('The map cannot be shown', error.message));
