// What the page shows, and the same as a hash: #zoom/lat/lon&s=scene&m=model@revision&...

const REVISION = /^[0-9a-f]{12}$/;
const MODES = ['over', 'swipe', 'side'];

/** Everything that the address keeps. `visible` null: all classes. `errors`: see `errors.js`; -1: of all classes. */
export const blankState = () => ({
  view: null, scene: null, model: null, revision: null, mode: 'over', swipe: 50, opacity: 60,
  layers: ['imagery', 'prediction'], visible: null, threshold: 0, colors: {}, errors: null,
});

/** Read a hash; what makes no sense is left out. */
export function parse(hash) {
  const state = blankState(), [place, ...rest] = hash.replace(/^#/, '').split('&');
  const numbers = place.split('/').map(Number);
  if (numbers.length === 3 && place && numbers.every(Number.isFinite)) {
    state.view = {zoom: numbers[0], lat: numbers[1], lon: numbers[2]};
  }
  const given = new URLSearchParams((place.includes('=') ? [place, ...rest] : rest).join('&'));
  const within = (name, low, high, otherwise) => {
    const number = Number(given.get(name) ?? NaN);
    return Number.isFinite(number) ? Math.min(high, Math.max(low, number)) : otherwise;
  };
  state.scene = given.get('s');
  if (given.get('m')) [state.model, state.revision] = splitModel(given.get('m'));
  if (MODES.includes(given.get('mode'))) state.mode = given.get('mode');
  state.opacity = within('o', 0, 100, state.opacity);
  state.swipe = within('sw', 0, 100, state.swipe);
  state.threshold = within('t', 0, 100, 0);
  if (given.has('l')) state.layers = list(given.get('l'));
  if (given.has('c')) state.visible = list(given.get('c')).map(Number).filter(Number.isInteger);
  if (/^(-1|\d+)$/.test(given.get('e') ?? '')) state.errors = Number(given.get('e'));
  for (const part of list(given.get('k') ?? '')) {
    const found = /^(\d+):([0-9a-f]{6})$/.exec(part);
    if (found) state.colors[found[1]] = `#${found[2]}`;
  }
  return state;
}

/** The hash of a state; what is as it is by itself is not said. */
export function format(state) {
  const {view} = state, rest = [];
  const add = (name, value) => rest.push(`${name}=${encodeURIComponent(value).replace(/%(40|3A|2C)/g, decodeURIComponent)}`);
  if (state.scene) add('s', state.scene);
  if (state.model) add('m', state.revision ? `${state.model}@${state.revision}` : state.model);
  if (state.mode !== 'over') add('mode', state.mode);
  if (state.mode === 'swipe') add('sw', Math.round(state.swipe));
  if (state.opacity !== 60) add('o', state.opacity);
  if (state.layers.join() !== 'imagery,prediction') add('l', state.layers.join());
  if (state.visible) add('c', state.visible.join());
  if (state.threshold) add('t', state.threshold);
  if (state.errors !== null) add('e', state.errors);
  const colors = Object.entries(state.colors).map(([value, color]) => `${value}:${color.slice(1)}`);
  if (colors.length) add('k', colors.join());
  const place = view ? `${view.zoom.toFixed(2)}/${view.lat.toFixed(7)}/${view.lon.toFixed(7)}` : '';
  return `#${[place, ...rest].filter(Boolean).join('&')}`;
}

/** `name@alias@revision` -> [`name@alias`, revision]. */
export function splitModel(text) {
  const place = text.lastIndexOf('@');
  return place > 0 && REVISION.test(text.slice(place + 1)) ? [text.slice(0, place), text.slice(place + 1)] : [text, null];
}

const list = text => text.split(',').filter(Boolean);
