// Export from the page: begin, watch, cancel, download. Hidden where the operator has not switched it on.
import {getJSON} from './api.js';
import {at, make} from './dom.js';

const OVER = ['finished', 'failed', 'cancelled'];
const POLL_MS = 1000;
const KEPT_IN_SIGHT = 5;
const OUTPUTS = {probability: 'and probabilities', confidence: 'and confidence', spread: 'and spread'}; // beside the layer's own

/** `current()` tells {pair, tilejson}; `viewBox()` and `polygon()` what is to be exported. */
export async function watchExports(current, viewBox, polygon) {
  if (!(await getJSON('api/features')).exports) return null;
  let known;
  try {
    known = await getJSON('exports');
  } catch {
    return null; // not for this visitor
  }
  at('export').hidden = false;
  for (const job of known.exports.slice(0, KEPT_IN_SIGHT).reverse()) follow(job);
  at('export-form').addEventListener('submit', async event => {
    event.preventDefault();
    try {
      follow(await begin(wanted(current(), viewBox, polygon)));
    } catch (error) {
      if (error.status === 401) at('export-token-row').hidden = false;
      at('export-jobs').prepend(make('li', {role: 'alert', text: error.message}));
    }
  });
  return {offer: ({outputs, kind}) => {
    at('export-output').replaceChildren(make('option', {value: '', text: kind === 'classes' ? 'Classes' : 'Values'}), ...outputs.filter(name => name in OUTPUTS).map(name => make('option', {value: name, text: OUTPUTS[name]})));
    at('export-vector').closest('label').hidden = kind !== 'classes';
  }};
}

function wanted({pair, tilejson}, viewBox, polygon) {
  const body = {scene: pair.scene, model: `${pair.model}@${tilejson.revision}`};
  if (at('export-output').value) body.output = [at('export-output').value];
  const what = at('export-what').value;
  if (what === 'view') body.bbox = viewBox();
  if (what === 'polygon') body.aoi = polygon().geometry;
  if (at('export-vector').checked) body.vector = 'gpkg';
  return body;
}

/** A line for a job, which tells of it until it is over. */
function follow(job) {
  const words = make('span'), progress = make('progress', {max: 1, value: 0, 'aria-label': 'Progress of the export'});
  const files = make('span', {className: 'row'});
  const cancel = make('button', {type: 'button', className: 'plain', text: 'Cancel', onclick: () => {
    cancel.disabled = true;
    clearTimeout(timer);
    getJSON(`exports/${job.id}`, {method: 'DELETE', headers: authorization()}).then(now => { if (!tell(now)) look(); }, error => {
      words.textContent = error.message;
      cancel.disabled = false;
      if (error.status === 401) at('export-token-row').hidden = false;
      look();
    });
  }});
  const line = make('li', {'data-job': job.id}, words, progress, cancel, files);
  at('export-jobs').prepend(line);

  const tell = now => {
    line.dataset.status = now.status;
    progress.value = now.blocks ? (now.done ?? 0) / now.blocks : 0;
    const left = now.seconds_left ? ` · ${Math.ceil(now.seconds_left)} s left` : '';
    const speed = now.pixels_per_second ? ` · ${(now.pixels_per_second / 1e6).toFixed(1)} Mpx/s` : '';
    words.textContent = now.error ? `${now.status}: ${now.error}` : `${now.status} ${now.blocks ? `${now.done ?? 0}/${now.blocks}` : ''}${speed}${left}`;
    const over = OVER.includes(now.status);
    progress.hidden = cancel.hidden = over;
    if (over) files.replaceChildren(...(now.files ?? []).map(({name, href, size}) =>
      make('a', {href: new URL(href).pathname, download: name, text: `${name} (${sizeOf(size)})`})));
    return over;
  };
  // Asked for once a second: a stream of events would hold one of the six connections that tiles have.
  const look = async () => {
    clearTimeout(timer);
    let over = false;
    try {
      over = tell(await getJSON(`exports/${job.id}`));
    } catch (error) {
      over = error.status === 404 && tell({status: 'cancelled'}); // its files are gone, too
      if (!over) words.textContent = error.message;
    }
    if (!over) timer = setTimeout(look, POLL_MS);
  };
  let timer = setTimeout(look, 0);
}

// Whoever may look at maps may not always order exports: the operator can want a token.
const authorization = () => at('export-token').value ? {Authorization: `Bearer ${at('export-token').value}`} : {};

const begin = body => getJSON('exports', {
  method: 'POST', headers: {'Content-Type': 'application/json', ...authorization()}, body: JSON.stringify(body),
});

const sizeOf = bytes => bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
