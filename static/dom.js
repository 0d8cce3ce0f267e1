// Small helpers for the page's elements. Words of the server are put in as text, never as markup.

export const at = id => document.getElementById(id);

/** An element: attributes and properties by name (`class`, `text`, `on*` handlers), then children. */
export function make(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'text') node.textContent = value;
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== 'form') node[name] = value;
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

/** A square of a colour. Set by script: a style attribute would need a weaker policy. */
export function swatch(color) {
  const node = make('span', {className: 'swatch'});
  node.style.backgroundColor = color;
  return node;
}

/** A bar of a share 0..1. */
export function bar(share, color) {
  const inner = make('span');
  inner.style.width = `${100 * share}%`;
  if (color) inner.style.backgroundColor = color;
  return make('span', {className: 'bar', 'aria-hidden': 'true'}, inner);
}

/** Take the map's place with what went wrong and, if there is one, the command that helps. */
export function showMessage(title, text, command) {
  const lines = [make('h1', {text: title}), make('p', {text})];
  if (command) lines.push(make('pre', {}, make('code', {text: command})));
  at('message').replaceChildren(...lines);
  at('message').hidden = false;
}

/** A line that says what just happened, and goes away by itself. */
export function say(text) {
  const node = at('said');
  node.textContent = text;
  node.hidden = !text;
  clearTimeout(say.timer);
  if (text) say.timer = setTimeout(() => { node.hidden = true; }, 6000);
}

/** A button that copies what `text()` says when it is pressed. */
export function copyButton(label, text, name = label) {
  const button = make('button', {type: 'button', text: label, 'aria-label': name});
  button.addEventListener('click', async () => {
    button.textContent = await copy(text()) ? 'Copied' : 'Press Ctrl+C';
    setTimeout(() => { button.textContent = label; }, 2000);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // plain http on another host has no clipboard
    const field = make('textarea', {value: text, className: 'away', 'aria-label': 'Text to copy'});
    (document.querySelector('dialog[open]') ?? document.body).append(field);
    field.select();
    const done = document.execCommand('copy');
    if (done) field.remove();
    else setTimeout(() => field.remove(), 20000);
    return done;
  }
}

/** Save text as a file. */
export function save(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], {type}));
  make('a', {href: address, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
