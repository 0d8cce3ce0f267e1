// The dialog that says how to use the layer elsewhere.
import {absolute} from './api.js';
import {at, copyButton, make} from './dom.js';
import {snippetsOf, stylingOf} from './snippets.js';

/** `current()` tells {base, tilejson, classes, state}. */
export function watchUse(current) {
  at('use').onclick = () => {
    const {base, tilejson, classes, state} = current();
    const found = snippetsOf({
      root: absolute(base), query: stylingOf(classes, state), tilejson, opacity: state.opacity, title: tilejson.name,
    });
    at('snippets').replaceChildren(...found.map(({name, text, hint}) => make('section', {'data-client': name},
      make('h3', {}, make('span', {text: name}), copyButton('Copy', () => text, `Copy for ${name}`)),
      hint ? make('p', {className: 'quiet', text: hint}) : null,
      make('pre', {tabIndex: 0, role: 'region', 'aria-label': `Text for ${name}`}, make('code', {text})))));
    at('use-dialog').showModal();
  };
}
