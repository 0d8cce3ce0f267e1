// Imagery below, prediction above. `ol` is the global of OpenLayers' published build.
import {polite} from './polite.js';

const MERCATOR_LATITUDE = 85.0511287798;

/** Bounds of a TileJSON (degrees) in the map's metres; the poles have no place in Mercator. */
export function extentOf([west, south, east, north]) {
  const clip = lat => Math.max(-MERCATOR_LATITUDE, Math.min(MERCATOR_LATITUDE, lat));
  return ol.proj.transformExtent([west, clip(south), east, clip(north)], 'EPSG:4326', 'EPSG:3857');
}

export function imageryLayer(template, tilejson) {
  return new ol.layer.Tile({
    extent: extentOf(tilejson.bounds),
    // The model's pixels may be coarser than the scene's: two more zooms keep the imagery sharp below them.
    source: new ol.source.XYZ({url: template, crossOrigin: 'anonymous', maxZoom: tilejson.maxzoom + 2}),
  });
}

/** Smallest zoom of the view at which the prediction is shown: half a zoom of slack while a zoom is animated. */
export const shownFrom = tilejson => tilejson.minzoom - 0.5;

/** The prediction; `onTraffic({inFlight, failed})` hears about its tiles. */
export function predictionLayer(map, tilejson, onTraffic) {
  const sharp = window.devicePixelRatio > 1;
  const template = tilejson.tiles[0];
  const source = new ol.source.XYZ({
    url: sharp ? template.replace('{y}', '{y}@2x') : template,
    tilePixelRatio: sharp ? 2 : 1,
    crossOrigin: 'anonymous',
    interpolate: false, // classes have no in-between
    minZoom: tilejson.minzoom,
    maxZoom: tilejson.maxzoom, // closer than this the browser enlarges, and the server infers nothing new
    attributions: tilejson.attribution ? [tilejson.attribution] : undefined,
  });
  // Bounds of a TileJSON are not a limit for OpenLayers' loading; a layer's extent is.
  const layer = new ol.layer.Tile({extent: extentOf(tilejson.bounds), minZoom: shownFrom(tilejson), source});
  const {retry} = polite(map, source, onTraffic);
  return {layer, retry};
}
