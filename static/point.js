// The pointer: hovering tells the class from what is loaded, a click asks the server for everything.
import {getJSON, percent, withUnit} from './api.js';
import {at, bar, make, swatch} from './dom.js';
import {numbersOf} from './loader.js';
import {rgbOf} from './palette.js';

/** Class under the pointer; asks nothing of the server. */
export function watchPointer(map, current) {
  const node = at('hover');
  map.on('pointermove', ({coordinate, dragging}) => {
    const {prediction, classes} = current();
    if (dragging || !prediction?.layer.isVisible(map.getView())) {
      node.hidden = true;
      return;
    }
    const found = prediction.under(coordinate, map.getView().getResolution());
    node.hidden = !found;
    if (!found) return;
    const item = classes.find(({value}) => value === found.value);
    node.replaceChildren(swatch(item?.color ?? 'transparent'), make('span', {
      text: `${item?.name ?? `class ${found.value}`}${found.confidence === null ? '' : ` ${percent(found.confidence)}`}`,
    }));
  });
  map.getViewport().addEventListener('pointerleave', () => { node.hidden = true; });
}

/** A click, or Enter for the middle of the map: probabilities, entropy, label, place. */
export function watchClicks(map, current) {
  const mark = make('div', {className: 'mark'});
  const overlay = new ol.Overlay({element: mark, positioning: 'center-center', stopEvent: false});
  map.addOverlay(overlay);
  let last = new AbortController();

  const ask = async coordinate => {
    last.abort(); // only the newest click is waited for
    const {signal} = last = new AbortController();
    const place = ol.proj.toLonLat(coordinate);
    overlay.setPosition(coordinate);
    show([make('p', {text: '…'})], place);
    try {
      const lines = await linesAt(current(), place, signal);
      show(lines ?? [make('p', {text: 'No prediction here'})], place);
    } catch (error) {
      if (!signal.aborted) show([make('p', {text: error.message})], place);
    }
  };
  map.on('singleclick', ({coordinate}) => { if (!current().drawing) ask(coordinate); });
  map.getTargetElement().addEventListener('keydown', event => {
    if (event.key === 'Enter' && !current().drawing && event.target === map.getTargetElement()) ask(map.getView().getCenter());
  });
  return {forget: () => { last.abort(); overlay.setPosition(undefined); }};
}

function show(lines, [lon, lat]) {
  at('point-answer').replaceChildren(...lines);
  at('point-place').textContent = `${lat.toFixed(5)}, ${lon.toFixed(5)}`;
  at('point-place').hidden = false;
}

async function values(base, [lon, lat], query, signal) {
  try {
    return await getJSON(`${base}/point/${lon.toFixed(7)},${lat.toFixed(7)}${query}`, {signal});
  } catch (error) {
    if (error.status === 404) return null; // outside of the scene
    throw error;
  }
}

async function linesAt({base, tilejson, classes, pair}, place, signal) {
  if (tilejson.kind !== 'classes') return numbersAt(base, tilejson, place, signal);
  const sure = tilejson.outputs.includes('probability');
  const label = pair.labels ? labelAt(pair, tilejson, place, signal).catch(() => null) : null;
  const [chosen, shares] = await Promise.all([
    values(base, place, '', signal), sure ? values(base, place, '?output=probability', signal) : null,
  ]);
  if (!chosen || chosen.values[0] === null) return null;
  const found = classes.find(item => item.value === chosen.values[0]);
  const lines = [make('p', {className: 'chosen'}, swatch(found.color), make('strong', {text: found.name}))];
  if (shares) lines.push(barsOf(classes, shares.values), make('p', {className: 'quiet', text: entropyOf(shares.values)}));
  const told = await label;
  if (told) lines.push(make('p', {text: `Label: ${told}`}));
  return lines;
}

async function numbersAt(base, tilejson, place, signal) {
  const found = await values(base, place, '', signal);
  if (!found || found.values[0] === null) return null;
  const text = tilejson.value
    ? `${tilejson.value.name}: ${withUnit(found.values[0], tilejson.value)}`
    : `${found.values.length} channels: ${found.values.slice(0, 3).map(number => number.toPrecision(3)).join(', ')} …`;
  return [make('p', {className: 'chosen'}, make('strong', {text}))];
}

/** Probabilities, the most probable first. */
function barsOf(classes, shares) {
  const rows = classes.map((item, i) => ({...item, share: shares[i]})).sort((a, b) => b.share - a.share);
  return make('ul', {className: 'bars', 'aria-label': 'Probability of each class'}, ...rows.map(({name, color, share}) =>
    make('li', {}, make('span', {className: 'name', text: name}), bar(share, color),
      make('span', {className: 'number', text: `${(100 * share).toFixed(1)} %`}))));
}

/** Shannon's entropy in bits, and as a share of the most that so many classes can have. */
export function entropyOf(shares) {
  const bits = -shares.filter(share => share > 0).reduce((sum, share) => sum + share * Math.log2(share), 0);
  const most = Math.log2(shares.length);
  return `Entropy ${bits.toFixed(2)} bit${most ? ` (${percent(bits / most)} of the most possible)` : ''}`;
}

/** The label's class at a place, from its tile: labels have no address for points. */
async function labelAt(pair, {maxzoom}, place, signal) {
  const model = `model=${encodeURIComponent(pair.model)}`, at = ol.proj.fromLonLat(place);
  const grid = ol.tilegrid.createXYZ({maxZoom: maxzoom}), [z, x, y] = grid.getTileCoordForCoordAndZ(at, maxzoom);
  const [legend, tile] = await Promise.all([
    getJSON(`${pair.scene}/labels/legend.json?${model}`, {signal}),
    fetch(`${pair.scene}/labels/${z}/${x}/${y}.png?${model}&v=${pair.labels_version ?? ''}`, {signal}).then(answer => answer.blob()),
  ]);
  const {data, width} = await numbersOf(tile), [left, , , top] = grid.getTileCoordExtent([z, x, y]);
  const size = grid.getResolution(z) * 256 / width;
  const begin = 4 * (Math.floor((top - at[1]) / size) * width + Math.floor((at[0] - left) / size));
  const [r, g, b, alpha] = data.subarray(begin);
  return alpha ? legend.find(({color}) => rgbOf(color).join() === [r, g, b].join())?.name ?? null : null;
}
