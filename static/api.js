// What the page asks the server for. Addresses are relative, so that a root path in front of the server works.

/** JSON of an address; an error carries the server's own words. */
export async function getJSON(url, options) {
  const response = await fetch(url, {headers: {Accept: 'application/json'}, ...options});
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return body;
  throw new Error(reason(body) ?? `The server answered ${response.status} to ${url}`);
}

function reason(body) {
  const detail = body?.detail;
  if (detail === undefined || detail === null) return null;
  if (typeof detail === 'string') return detail;
  const words = [detail.reason ?? detail.message ?? detail.msg, detail.remedy].filter(Boolean);
  return words.length ? words.join(' ') : JSON.stringify(detail);
}

/** The pair that the page's own address names, else the first. */
export function choosePair(pairs, search) {
  const asked = new URLSearchParams(search);
  const [scene, model] = [asked.get('scene'), asked.get('model')];
  if (!scene && !model) return pairs[0];
  const chosen = pairs.find(pair => (!scene || pair.scene === scene) && (!model || pair.model === model));
  if (chosen) return chosen;
  const known = pairs.map(pair => `${pair.scene} + ${pair.model}`).join(', ');
  throw new Error(`There is no ${[scene, model].filter(Boolean).join(' + ')} here. Known: ${known}.`);
}

/** A template that works outside this page too; URL would percent-encode the braces. */
export function absolute(template) {
  return new URL(template, document.baseURI).href.replaceAll('%7B', '{').replaceAll('%7D', '}');
}

/** The answer at a place, {text, color?}, or null where there is no prediction. */
export async function answerAt(tilejson, [lon, lat], signal) {
  const url = tilejson.point.replace('{lon}', lon.toFixed(7)).replace('{lat}', lat.toFixed(7));
  const response = await fetch(url, {headers: {Accept: 'application/json'}, signal});
  if (response.status === 404) return null; // outside of the scene
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Error(reason(body) ?? `The server answered ${response.status}`);
  const [first] = body.values;
  if (first === null) return null;
  if (tilejson.value) return {text: `${tilejson.value.name}: ${withUnit(first, tilejson.value)}`};
  if (tilejson.embedding) return {text: `${body.values.length} channels: ${body.values.slice(0, 3).map(short).join(', ')} …`};
  const found = tilejson.classes.find(item => item.value === first);
  return found ? {text: found.name, color: found.color} : null;
}

const short = number => String(Number(number.toPrecision(4)));

/** A number in the words of a TileJSON's `value`. */
export const withUnit = (number, {unit}) => `${short(number)}${unit ? ` ${unit}` : ''}`;
