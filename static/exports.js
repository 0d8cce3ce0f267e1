// Export from the page: begin, watch, cancel, download. Hidden where the operator has not switched it on.
import {getJSON, postJSON} from './api.js';
import {at, make} from './dom.js';

const OVER = ['finished', 'failed', 'cancelled'];
const POLL_MS = 1000;
const OUTPUTS = {class: 'Classes', probability: 'Probabilities', confidence: 'Confidence', value: 'Values'};

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
  for (const job of Array.isArray(known) ? known : known.exports ?? []) if (!OVER.includes(job.status)) follow(job);
  at('export-form').addEventListener('submit', async event => {
    event.preventDefault();
    try {
      follow(await postJSON('exports', wanted(current(), viewBox, polygon)));
    } catch (error) {
      at('export-jobs').prepend(make('li', {role: 'alert', text: error.message}));
    }
  });
  return {offer: ({outputs, kind}) => {
    at('export-output').replaceChildren(...outputs.filter(name => name in OUTPUTS).map(name => make('option', {value: name, text: OUTPUTS[name]})));
    at('export-vector').closest('label').hidden = kind !== 'classes';
  }};
}

function wanted({pair, tilejson}, viewBox, polygon) {
  const body = {scene: pair.scene, model: `${pair.model}@${tilejson.revision}`, output: at('export-output').value};
  const what = at('export-what').value;
  if (what === 'view') body.bbox = viewBox();
  if (what === 'polygon') body.aoi = polygon().geometry;
  if (at('export-vector').checked) body.vector = true;
  return body;
}

/** A line for a job, which tells of it until it is over. */
function follow(job) {
  const words = make('span'), progress = make('progress', {max: 1, value: 0, 'aria-label': 'Progress of the export'});
  const files = make('span', {className: 'row'});
  const cancel = make('button', {type: 'button', className: 'plain', text: 'Cancel', onclick: () => {
    cancel.disabled = true;
    fetch(`exports/${job.id}`, {method: 'DELETE'}).then(() => look());
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
      make('a', {href, download: name, text: `${name} (${sizeOf(size)})`})));
    return over;
  };
  // Asked for once a second: a stream of events would hold one of the six connections that tiles have.
  const look = async () => {
    clearTimeout(timer);
    let over = false;
    try {
      over = tell(await getJSON(`exports/${job.id}`));
    } catch (error) {
      over = error.status === 404;
      words.textContent = error.message;
    }
    if (!over) timer = setTimeout(look, POLL_MS);
  };
  let timer = setTimeout(look, 0);
}

const sizeOf = bytes => bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
