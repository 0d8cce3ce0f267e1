// How far the tiles of the view are: queued, running, done, failed.
import {at} from './dom.js';

/** Counts of a prediction's tiles in an extent, and what is to be hatched: [{extent, state}]. */
export function countTiles(prediction, extent, resolution) {
  const counts = {queued: 0, running: 0, done: 0, failed: 0}, marked = [];
  for (const [z, x, y] of prediction.tilesIn(extent, resolution)) {
    const key = `${z}/${x}/${y}`, {loader} = prediction;
    const state = loader.has(z, x, y) ? 'done' : loader.flying.has(key) ? 'running' : loader.failed.has(key) ? 'failed' : 'queued';
    counts[state] += 1;
    if (state === 'done') continue;
    const cut = ol.extent.getIntersection(prediction.grid.getTileCoordExtent([z, x, y]), prediction.extent);
    marked.push({extent: cut, state: state === 'failed' ? 'failed' : 'waiting'});
  }
  return {counts, marked};
}

/** The line below the map. */
export function showCounts({queued, running, done, failed}) {
  const node = at('status'), total = queued + running + done + failed, words = [];
  if (running) words.push(`${running} running`);
  if (queued) words.push(`${queued} queued`);
  if (failed) words.push(`${failed} failed`);
  node.hidden = words.length === 0;
  Object.assign(node.dataset, {queued, running, done, failed});
  node.firstElementChild.textContent = words.length ? `Tiles: ${[...words, `${done} of ${total} done`].join(' · ')}` : '';
  const bar = node.querySelector('progress');
  bar.hidden = running + queued === 0;
  bar.value = total ? done / total : 0;
  at('retry').hidden = failed === 0;
}
