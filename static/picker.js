// Scenes and models as cards. A radio button in each: arrow keys and screen readers know what to do with them.
import {getJSON} from './api.js';
import {at, make, swatch} from './dom.js';

/** `choose(pair)` is called when another pair was picked. */
export function showPicker(pairs, current, choose) {
  const scenes = [...new Set(pairs.map(pair => pair.scene))];
  const models = pairs.filter(pair => pair.scene === current.scene);
  at('picker').hidden = pairs.length < 2;
  fill('scenes', 'Scenes', scenes.map(scene => {
    const pair = pairs.find(item => item.scene === scene && item.model === current.model) ?? pairs.find(item => item.scene === scene);
    return card('scene', scene, scene === current.scene, () => choose(pair), sceneLines(pair));
  }));
  fill('models', 'Models', models.map(pair => card('model', pair.model, pair === current, () => choose(pair), [
    make('strong', {text: modelTitle(pair)}), make('span', {className: 'quiet facts', text: pair.model}),
  ])));
  const look = () => { if (at('picker').open) describeModels(models).catch(() => {}); };
  at('picker').ontoggle = look;
  look();
}

function fill(id, title, cards) {
  at(id).replaceChildren(make('legend', {text: title}), ...cards);
}

function card(name, value, checked, choose, lines) {
  return make('label', {className: 'card'}, make('input', {type: 'radio', name, value, checked, onchange: choose}),
    make('span', {className: 'lines'}, ...lines));
}

function sceneLines(pair) {
  const facts = [pair.gsd && `${Number(pair.gsd.toPrecision(3))} m per pixel`, pair.labels && 'with labels'].filter(Boolean);
  const lines = [make('strong', {text: pair.scene_title ?? pair.scene}), make('span', {className: 'quiet', text: facts.join(' · ')})];
  if (pair.imagery && pair.bounds) lines.unshift(make('img', {src: thumbnail(pair), alt: '', loading: 'lazy', width: 64, height: 64}));
  return lines;
}

/** The smallest imagery tile that holds the scene's middle and most of the scene. */
function thumbnail({imagery, bounds: [west, south, east, north]}) {
  const z = Math.max(0, Math.min(22, Math.floor(Math.log2(360 / Math.max(east - west, 1e-6)))));
  const [x, y] = ol.proj.fromLonLat([(west + east) / 2, (south + north) / 2]);
  const [, col, row] = ol.tilegrid.createXYZ({maxZoom: 22}).getTileCoordForCoordAndZ([x, y], z);
  return imagery.replace('{z}', z).replace('{x}', col).replace('{y}', row);
}

const modelTitle = pair => pair.scene_title ? pair.title.slice(pair.scene_title.length + 2) || pair.model : pair.title;

/** Add what the models' own pages say: resolution, licence, exactness, classes. */
async function describeModels(pairs) {
  const {models} = await getJSON('models?f=json');
  for (const pair of pairs) {
    const known = models.find(item => item.id === pair.model) ?? models.find(item => item.answers?.includes(pair.model));
    const input = document.querySelector(`#models input[value="${CSS.escape(pair.model)}"]`);
    if (!known || !input) continue;
    const facts = [
      known.gsd ? `${known.gsd} m per pixel` : 'resolution not stated',
      known.license ?? 'licence not stated',
      known.exactness ?? 'exactness not measured yet',
      known.classes ? `${known.classes} classes` : null,
    ];
    input.parentElement.querySelector('.facts').textContent = facts.filter(Boolean).join(' · ');
    addClasses(input.parentElement.querySelector('.lines'), pair).catch(() => {});
  }
}

async function addClasses(lines, pair) {
  if (lines.querySelector('.swatches')) return;
  const row = make('span', {className: 'swatches'});
  lines.append(row);
  const {classes} = await getJSON(`models/${encodeURIComponent(pair.model)}?f=json`);
  if (!Array.isArray(classes)) return;
  row.append(...classes.slice(0, 12).map(({name, color}) => make('span', {title: name}, swatch(color), name)));
}
