// Classes with their colours: shown or hidden, recoloured, and cut at a confidence. Nothing here asks the server.
import {withUnit} from './api.js';
import {at, make, swatch} from './dom.js';

/** Classes of a TileJSON as the page shows them, by what the address says. */
export function classesOf(tilejson, {visible, colors}) {
  return (tilejson.classes ?? []).map(item => ({
    ...item, own: item.color, color: colors[item.value] ?? item.color, visible: !visible || visible.includes(item.value),
  }));
}

/** `onChange({recoloured})` hears that `classes` or `state` have changed. */
export function showLegend(tilejson, classes, state, onChange) {
  const {value, embedding} = tilejson;
  const isClasses = classes.length > 0;
  at('legend').hidden = !isClasses && !value && !embedding;
  at('legend-title').textContent = value ? value.name : embedding ? `Colours of ${embedding.channels} channels` : 'Classes';
  at('class-tools').hidden = !isClasses;
  at('threshold-row').hidden = !isClasses || !tilejson.outputs.includes('confidence');
  showRamp(value);

  const changed = recoloured => {
    state.visible = classes.every(item => item.visible) ? null : classes.filter(item => item.visible).map(item => item.value);
    state.colors = Object.fromEntries(classes.filter(item => item.color !== item.own).map(item => [item.value, item.color]));
    onChange({recoloured});
  };
  const rows = classes.map(item => classRow(item, changed));
  at('classes').replaceChildren(...(embedding
    ? embedding.components.map(({name, color}) => make('li', {}, swatch(color), make('span', {text: name})))
    : rows.map(row => row.node)));
  const all = visible => () => {
    for (const item of classes) item.visible = visible;
    for (const row of rows) row.refresh();
    changed(false);
  };
  at('all-classes').onclick = all(true);
  at('no-classes').onclick = all(false);
  at('own-colors').onclick = () => {
    for (const item of classes) item.color = item.own;
    for (const row of rows) row.refresh();
    changed(true);
  };
  watchThreshold(state, onChange);
}

function classRow(item, changed) {
  const box = make('input', {
    type: 'checkbox', checked: item.visible, onchange: () => { item.visible = box.checked; changed(false); },
  });
  const color = make('input', {
    type: 'color', value: item.color, 'aria-label': `Colour of ${item.name}`, oninput: () => { item.color = color.value; changed(true); },
  });
  const node = make('li', {'data-class': String(item.value)}, color, make('label', {}, box, make('span', {text: item.name})));
  return {node, refresh: () => { box.checked = item.visible; color.value = item.color; }};
}

function watchThreshold(state, onChange) {
  const slider = at('threshold');
  const tell = () => { at('threshold-value').textContent = state.threshold ? `≥ ${state.threshold} %` : 'any'; };
  slider.value = state.threshold;
  slider.oninput = () => {
    state.threshold = Number(slider.value);
    tell();
    onChange({recoloured: false});
  };
  tell();
}

function showRamp(value) {
  at('ramp').hidden = !value;
  if (!value) return;
  at('ramp').firstElementChild.style.backgroundImage = `linear-gradient(to right, ${value.stops.map(stop => stop.color)})`;
  const [low, high] = value.range;
  at('ramp').lastElementChild.replaceChildren(
    ...[low, (low + high) / 2, high].map(number => make('span', {text: withUnit(number, value)})));
}
