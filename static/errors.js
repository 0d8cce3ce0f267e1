// The layer of errors: of which class they are shown, and what its colours mean, in the server's own words.
import {getJSON} from './api.js';
import {at, make, swatch} from './dom.js';

/** Class of which missed and false are told apart, null: every wrong pixel in the colour of its label. */
function chosen(classes, {errors}) {
  if (errors === null) return classes.length === 2 ? classes[1] : null; // of a mask, the one that is not its background
  return classes.find(({value}) => value === errors) ?? null;
}

const queryOf = item => item ? `class=${item.value}` : '';

/** Address of the tiles, below a pair's `base`. */
export function errorTiles({base, classes, state, pair}) {
  const query = [queryOf(chosen(classes, state)), `v=${pair.labels_version ?? ''}`].filter(Boolean).join('&');
  return `${base}/errors/{z}/{x}/{y}.png?${query}`;
}

let shownFor = null;

/** Show the legend or hide it; `onChange()` hears that `state.errors` has changed. */
export async function showErrorLegend(current, shown, onChange) {
  const {base, classes, state} = current, item = chosen(classes, state), select = at('errors-of');
  at('error-legend').hidden = !shown;
  if (!shown) return;
  const option = (value, text) => make('option', {value, text, selected: value === (item ? String(item.value) : 'all')});
  select.replaceChildren(option('all', 'all classes'), ...classes.map(({value, name}) => option(String(value), name)));
  select.onchange = () => {
    state.errors = select.value === 'all' ? -1 : Number(select.value);
    onChange();
  };
  const query = queryOf(item), url = `${base}/errors/legend.json${query && `?${query}`}`;
  if (shownFor === url) return;
  shownFor = url;
  const rows = await getJSON(url).catch(error => {
    shownFor = null;
    return [{name: error.message, color: 'transparent', meaning: ''}];
  });
  if (shownFor !== null && shownFor !== url) return; // another was chosen meanwhile
  at('error-rows').replaceChildren(...rows.map(({name, color, meaning}) => make('li', {}, swatch(color),
    make('span', {}, make('strong', {text: name}), meaning && ` ${meaning}`))));
}
