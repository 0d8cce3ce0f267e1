// The panel beside the map. Words of the server are put in as text, never as markup.
import {withUnit} from './api.js';

const at = id => document.getElementById(id);

function make(tag, text, ...children) {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  node.append(...children);
  return node;
}

function swatch(color) {
  const node = make('span');
  node.className = 'swatch';
  node.style.backgroundColor = color;
  return node;
}

/** Take the map's place with what went wrong and, if there is one, the command that helps. */
export function showMessage(title, text, command) {
  const lines = [make('h1', title), make('p', text)];
  if (command) lines.push(make('pre', '', make('code', command)));
  at('message').replaceChildren(...lines);
  at('message').hidden = false;
}

export function showPair(pair, tilejson) {
  const title = pair.title || tilejson.name || `${pair.scene} · ${pair.model}`;
  at('title').textContent = title;
  at('subtitle').textContent = `scene ${pair.scene} · model ${pair.model}${tilejson.revision ? ` · revision ${tilejson.revision}` : ''}`;
  document.title = `${title} – titiler-inference`;
  at('panel').hidden = false;
}

/** Width of the map that lies under the panel: none on a phone, where the panel is below it. */
export function coveredOnTheRight() {
  const node = at('panel');
  return getComputedStyle(node).position === 'absolute' ? node.offsetWidth : 0;
}

export function showPairs(pairs, chosen) {
  if (pairs.length < 2) return;
  const select = at('pairs');
  select.replaceChildren(...pairs.map((pair, i) => {
    const option = make('option', pair.title || `${pair.scene} · ${pair.model}`);
    option.value = i;
    option.selected = pair === chosen;
    return option;
  }));
  select.hidden = false;
  select.addEventListener('change', () => {
    const {scene, model} = pairs[select.value];
    location.search = new URLSearchParams({scene, model});
  });
}

/** Classes with their colours, a ramp with its values, or what red, green and blue stand for. */
export function showLegend({classes = [], value, embedding}) {
  const rows = embedding ? embedding.components : classes;
  at('legend').hidden = rows.length === 0 && !value;
  at('legend-title').textContent = value ? value.name : embedding ? `Colours of ${embedding.channels} channels` : 'Classes';
  at('classes').replaceChildren(...rows.map(({name, color}) => make('li', '', swatch(color), make('span', name))));
  at('ramp').hidden = !value;
  if (value) {
    at('ramp').firstElementChild.style.backgroundImage = `linear-gradient(to right, ${value.stops.map(stop => stop.color)})`;
    const [low, high] = value.range;
    at('ramp').lastElementChild.replaceChildren(
      ...[low, (low + high) / 2, high].map(number => make('span', withUnit(number, value))));
  }
  // On a phone the map comes first; the legend is one touch away.
  at('legend').open = window.matchMedia('(min-width: 641px)').matches;
}

export function onOpacity(set) {
  const slider = at('opacity');
  const apply = () => {
    at('opacity-value').textContent = `${slider.value} %`;
    set(slider.value / 100);
  };
  slider.addEventListener('input', apply);
  apply();
}

/** Text, and the class's colour if it has one, for the place that was clicked. */
export function showPoint(text, color, [lon, lat]) {
  at('point-class').replaceChildren(...(color ? [swatch(color)] : []), make('span', text));
  at('point-place').textContent = `${lat.toFixed(5)}, ${lon.toFixed(5)}`;
  at('point-place').hidden = false;
}

export function showTraffic({inFlight, failed}) {
  const words = [];
  if (inFlight) words.push(`${inFlight} ${inFlight === 1 ? 'tile' : 'tiles'} under way`);
  if (failed) words.push(`${failed} failed`);
  at('status').hidden = words.length === 0;
  at('status').firstElementChild.textContent = words.join(' · ');
  at('retry').hidden = failed === 0;
}

export function onRetry(retry) {
  at('retry').addEventListener('click', retry);
}

export function showZoomNote(hidden, zoomIn) {
  at('note').hidden = hidden;
  at('zoom-in').onclick = zoomIn;
}

export function offerCopy(template) {
  const field = at('xyz'), button = at('copy'), label = button.textContent;
  field.value = template;
  field.addEventListener('focus', () => field.select());
  button.addEventListener('click', async () => {
    button.textContent = await copy(field) ? 'Copied' : 'Press Ctrl+C';
    setTimeout(() => { button.textContent = label; }, 2000);
  });
}

async function copy(field) {
  try {
    await navigator.clipboard.writeText(field.value);
    return true;
  } catch { // plain http on another host has no clipboard
    field.select();
    return document.execCommand('copy');
  }
}
