// Keys of the page, light and dark.
import {at, make} from './dom.js';

const THEMES = ['auto', 'light', 'dark'];

/** `keys` maps a key to [what it does, in words; the deed]. They rest while somebody types, and can be switched off. */
export function watchKeys(keys) {
  let on = true;
  addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey || !on || document.querySelector('dialog[open]')) return;
    if (event.target.closest?.('input:not([type=range], [type=radio], [type=checkbox]), textarea, select')) return;
    const found = keys[event.key];
    if (found) {
      found[1]();
      event.preventDefault();
    }
  });
  const rows = Object.entries(keys).flatMap(([key, [words]]) => [make('dt', {}, make('kbd', {text: key})), make('dd', {text: words})]);
  const box = make('input', {type: 'checkbox', checked: true, onchange: () => { on = box.checked; }});
  at('keys').replaceChildren(...rows, make('dt', {}, make('kbd', {text: 'arrows + −'})), make('dd', {text: 'Pan and zoom, while the map has the focus'}),
    make('dt', {}, make('kbd', {text: 'Enter ⌫ Shift+arrows'})), make('dd', {text: 'While drawing: a corner under the cross (twice: the last), one less, small steps'}));
  at('keys').after(make('label', {}, box, ' Single keys are on'));
  at('help').onclick = () => at('help-dialog').showModal();
}

/** Follow the system, or what was chosen here before. */
export function watchTheme() {
  const apply = theme => {
    document.documentElement.dataset.theme = theme;
    at('theme').textContent = `Theme: ${theme}`;
  };
  let theme = read();
  apply(theme);
  at('theme').onclick = () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    apply(theme);
    try {
      localStorage.setItem('theme', theme);
    } catch { /* a browser that keeps nothing */ }
  };
}

function read() {
  try {
    const kept = localStorage.getItem('theme');
    return THEMES.includes(kept) ? kept : 'auto';
  } catch {
    return 'auto';
  }
}
