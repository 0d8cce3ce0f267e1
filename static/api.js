// What the page asks the server for. Addresses are relative, so that a root path in front of the server works.

/** An answer that is no success; `status` is its code (0: no connection). */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** JSON of an address; an error carries the server's own words. */
export async function getJSON(url, options = {}) {
  const response = await fetch(url, {...options, headers: {Accept: 'application/json', ...options.headers}});
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return body;
  throw new Refused(reason(body) ?? `The server answered ${response.status} to ${url}`, response.status);
}

/** JSON of what is posted. */
export const postJSON = (url, body, signal) => getJSON(url, {
  method: 'POST', signal, headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body),
});

function reason(body) {
  const detail = body?.detail;
  if (detail === undefined || detail === null) return null;
  if (typeof detail === 'string') return detail;
  const words = [detail.reason ?? detail.message ?? detail.msg, detail.remedy].filter(Boolean);
  return words.length ? words.join(' ') : JSON.stringify(detail);
}

/** The pair of these names, else the first where none is named. */
export function choosePair(pairs, {scene, model}) {
  if (!scene && !model) return pairs[0];
  const chosen = pairs.find(pair => (!scene || pair.scene === scene) && (!model || pair.model === model));
  if (chosen) return chosen;
  const known = pairs.map(pair => `${pair.scene} + ${pair.model}`).join(', ');
  throw new Error(`There is no ${[scene, model].filter(Boolean).join(' + ')} here. Known: ${known}.`);
}

/** Address of a pair at its present revision, relative to the page: `{scene}/{model}@{revision}`. */
export function baseOf(tilejson) {
  const parts = tilejson.tiles[0].split('?')[0].split('/');
  return parts.slice(-5, -3).join('/');
}

/** A template that works outside this page too; URL would percent-encode the braces. */
export function absolute(template) {
  return new URL(template, document.baseURI).href.replaceAll('%7B', '{').replaceAll('%7D', '}');
}

/** TileJSON of a pair, at `revision` where the server still has it; `moved` says that it has not. */
export async function tilejsonOf(pair, revision) {
  if (revision) {
    try {
      return {tilejson: await getJSON(`${pair.scene}/${pair.model}@${revision}/tilejson.json`), moved: false};
    } catch (error) {
      if (error.status !== 404) throw error;
    }
  }
  const tilejson = await getJSON(pair.tilejson);
  return {tilejson, moved: Boolean(revision) && tilejson.revision !== revision};
}

const short = number => String(Number(number.toPrecision(4)));

/** A number in the words of a TileJSON's `value`. */
export const withUnit = (number, {unit}) => `${short(number)}${unit ? ` ${unit}` : ''}`;
export const percent = share => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
