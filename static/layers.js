// The layers of the map. `ol` is the global of OpenLayers' published build.
import {Loader, numbersOf, pictureOf} from './loader.js';
import {numbersFromColors, paint, styleOf, variablesOf} from './palette.js';

const MERCATOR_LATITUDE = 85.0511287798;
const IDLE = 0; // of ol/TileState, which the published build does not name

/** Bounds of a TileJSON (degrees) in the map's metres; the poles have no place in Mercator. */
export function extentOf([west, south, east, north]) {
  const clip = lat => Math.max(-MERCATOR_LATITUDE, Math.min(MERCATOR_LATITUDE, lat));
  return ol.proj.transformExtent([west, clip(south), east, clip(north)], 'EPSG:4326', 'EPSG:3857');
}

/** Smallest zoom of the view at which the prediction is inferred: half a zoom of slack while a zoom is animated. */
export const shownFrom = tilejson => tilejson.minzoom - 0.5;

let canDraw;
/** Whether the browser has WebGL. `?canvas=1` in the address does without, as remote desktops do. */
export function hasWebGL() {
  canDraw ??= !new URLSearchParams(location.search).has('canvas')
    && Boolean(document.createElement('canvas').getContext('webgl2') ?? document.createElement('canvas').getContext('webgl'));
  return canDraw;
}

/** The address of tiles with two pixels for each point, where the screen has them. */
export const sharpened = template => window.devicePixelRatio > 1 ? template.replace('{y}', '{y}@2x') : template;

/** A layer of tiles that are pictures already: imagery, labels, errors. */
export function pictureLayer(template, tilejson, options = {}) {
  const sharp = window.devicePixelRatio > 1 && options.sharp;
  return new ol.layer.Tile({
    className: options.className ?? 'ol-layer',
    extent: extentOf(tilejson.bounds),
    minZoom: options.minZoom,
    source: new ol.source.XYZ({
      url: sharp ? sharpened(template) : template,
      tilePixelRatio: sharp ? 2 : 1,
      crossOrigin: 'anonymous',
      interpolate: !options.numbers,
      transition: options.numbers ? 0 : undefined, // a class has no half
      minZoom: options.numbers ? tilejson.minzoom : 0,
      // The model's pixels may be coarser than the scene's: two more zooms keep the imagery sharp below them.
      maxZoom: tilejson.maxzoom + (options.numbers ? 0 : 2),
    }),
  });
}

let count = 0;

/**
 * The prediction. Classes come as numbers and get their colours here; everything else has its own.
 *
 * `base` is the pair's address with its revision, `settings` holds the threshold in percent, `classes` have a colour
 * and whether they are visible. Below `live_minzoom` of the TileJSON only what was exported is shown; files hold class
 * numbers alone, so that those tiles come in the model's colours, and their confidence is not known.
 */
export class Prediction {
  constructor({base, tilejson, classes, settings, onChange}) {
    Object.assign(this, {base, tilejson, classes, settings});
    this.isClasses = tilejson.kind === 'classes';
    this.webgl = this.isClasses && hasWebGL();
    const sharp = window.devicePixelRatio > 1;
    this.liveFrom = tilejson.live_minzoom ?? tilejson.minzoom;
    const urlOf = (z, x, y) =>
      `${base}/${z}/${x}/${y}${sharp ? '@2x' : ''}.png${this.isClasses && z >= this.liveFrom ? '?output=class_confidence' : ''}`;
    this.loader = new Loader(urlOf, (blob, z) => this.decode(blob, z), onChange);
    this.grid = ol.tilegrid.createXYZ({minZoom: tilejson.minzoom, maxZoom: tilejson.maxzoom});
    this.extent = extentOf(tilejson.bounds);
    this.source = new ol.source.DataTile({
      loader: async (z, x, y, {signal}) => this.shown(await this.loader.load(z, x, y, signal)),
      tileGrid: this.grid,
      tileSize: sharp ? 512 : 256,
      interpolate: false, // classes have no in-between
      transition: 0,
      attributions: tilejson.attribution ? [tilejson.attribution] : undefined,
    });
    this.source.on('tileloaderror', ({tile}) => {
      if (tile.getError()?.name !== 'AbortError') return;
      // Asked for again when it comes back into view. Not at once: OpenLayers' queue has yet to hear of the error, and
      // would count it as loading for ever.
      queueMicrotask(() => {
        tile.setState(IDLE);
        this.layer.changed();
      });
    });
    const options = {
      className: `answer p${++count}`, source: this.source, extent: this.extent,
      minZoom: shownFrom(tilejson), zIndex: 10,
    };
    this.layer = this.webgl
      ? new ol.layer.WebGLTile({...options, style: styleOf(classes, settings), cacheSize: 300})
      : new ol.layer.Tile(options);
  }

  async decode(blob, z) {
    if (!this.isClasses) return pictureOf(blob);
    const tile = await numbersOf(blob);
    if (z < this.liveFrom) numbersFromColors(tile.data, this.classes);
    return tile;
  }

  shown(tile) {
    if (this.webgl) return tile.data;
    if (this.isClasses) paint(tile, this.classes, this.settings);
    return tile.canvas;
  }

  /** Colours, visible classes or the threshold have changed; nothing is asked of the server. */
  restyle({recoloured = false} = {}) {
    if (!this.isClasses) return;
    if (!this.webgl) {
      for (const tile of this.loader.kept.values()) paint(tile, this.classes, this.settings);
      this.layer.changed();
    } else if (recoloured) {
      this.layer.setStyle(styleOf(this.classes, this.settings));
    } else {
      this.layer.updateStyleVariables(variablesOf(this.classes, this.settings));
    }
  }

  /** Tiles of the view at `resolution` that lie over the scene, as [z, x, y]. */
  tilesIn(extent, resolution) {
    const z = this.grid.getZForResolution(resolution, this.source.zDirection), found = [];
    const seen = ol.extent.getIntersection(extent, this.extent);
    if (ol.extent.isEmpty(seen)) return found;
    this.grid.forEachTileCoord(seen, z, ([tz, x, y]) => found.push([tz, x, y]));
    return found;
  }

  /** {class, confidence (0..1 or null)} of what is drawn at a coordinate, null where there is nothing, without asking. */
  under(coordinate, resolution) {
    if (!this.isClasses) return null;
    const finest = this.grid.getZForResolution(resolution, this.source.zDirection);
    for (let z = finest; z >= this.grid.getMinZoom(); z--) {
      const [, x, y] = this.grid.getTileCoordForCoordAndZ(coordinate, z);
      const tile = this.loader.kept.get(`${z}/${x}/${y}`);
      if (!tile) continue; // what is coarser is drawn until it comes
      const [left, , , top] = this.grid.getTileCoordExtent([z, x, y]);
      const size = this.grid.getResolution(z) * 256;
      const col = Math.min(tile.width - 1, Math.floor((coordinate[0] - left) / size * tile.width));
      const row = Math.min(tile.height - 1, Math.floor((top - coordinate[1]) / size * tile.height));
      const [value, sure, there] = tile.data.subarray(4 * (row * tile.width + col));
      return there ? {value, confidence: sure === 255 ? null : sure / 254} : null;
    }
    return undefined; // not inferred yet
  }

  retry() {
    this.loader.failed.clear();
    this.source.setKey(`try ${++count}`); // new tiles; those that are kept are not asked for again
  }

  stop() {
    this.loader.stop();
  }
}
