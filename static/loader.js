// Loads the prediction's tiles: one first and then several at once, closes requests that nobody waits for any more, so that
// the server can drop the inference, comes back after a "busy" answer, and keeps the numbers of what it has loaded for the
// pointer. OpenLayers does none of it.

// A browser has six connections to a server: while predictions are waited for, imagery still comes over one of them.
// HTTP/2 has no such bound, and more questions at once are more that the server can answer together.
const AT_ONCE = /^h[23]/.test(performance.getEntriesByType('navigation')[0]?.nextHopProtocol) ? 16 : 5;
const BUSY = [429, 502, 503, 504];
const RETRIES = 6;
const KEPT_PIXELS = 300 * 256 * 256; // four bytes each

export class Loader {
  /**
   * `urlOf(z, x, y)` of the tiles; `decode(blob, z)` makes what is kept, with its number of `pixels`; `onChange()` hears of
   * every tile that begins, ends or fails.
   */
  constructor(urlOf, decode, onChange) {
    Object.assign(this, {urlOf, decode, onChange});
    this.kept = new Map(); // the least recently used first
    this.queue = []; // asked for, and not begun
    this.flying = new Map();
    this.places = 1; // the first alone: those of a view that are asked for together come at about the same time, late
    this.failed = new Map();
    this.pixels = 0;
    this.kind = new Map(); // what the server says of a tile: predicted, outside, zoom-in, materialised
  }

  /** A tile, from memory or from the server. Rejects with an AbortError when it was pruned, and as `signal` says when that is aborted. */
  async load(z, x, y, signal) {
    const key = `${z}/${x}/${y}`;
    const known = this.peek(z, x, y);
    if (known) return known;
    const own = new AbortController(), stop = AbortSignal.any([signal, own.signal]);
    this.failed.delete(key);
    try {
      await this.turn(key, own, stop);
      this.onChange();
      const response = await patientFetch(this.urlOf(z, x, y), stop);
      const tile = await this.decode(await response.blob(), z);
      this.kind.set(key, response.headers.get('X-Inference'));
      this.keep(key, tile);
      this.places = AT_ONCE;
      return tile;
    } catch (error) {
      if (!stop.aborted) {
        this.failed.set(key, error.message);
        this.places = AT_ONCE;
      }
      throw error;
    } finally {
      if (this.flying.get(key) === own) this.flying.delete(key);
      this.next();
      this.onChange();
    }
  }

  /** Wait for a place, first come, first served. */
  turn(key, own, signal) {
    return new Promise((go, stop) => {
      signal.throwIfAborted();
      signal.addEventListener('abort', () => stop(signal.reason));
      this.queue.push({key, own, go, signal});
      this.next();
    });
  }

  next() {
    while (this.queue.length && this.flying.size < this.places) {
      const {key, own, go, signal} = this.queue.shift();
      if (signal.aborted) continue; // OpenLayers aborts what it disposes of, too
      this.flying.set(key, own);
      go();
    }
  }

  /** What is kept of a tile, undefined if nothing is. */
  peek(z, x, y) {
    const key = `${z}/${x}/${y}`, tile = this.kept.get(key);
    if (tile) {
      this.kept.delete(key);
      this.kept.set(key, tile);
    }
    return tile;
  }

  has(z, x, y) {
    return this.kept.has(`${z}/${x}/${y}`);
  }

  keep(key, tile) {
    this.pixels += tile.pixels - (this.kept.get(key)?.pixels ?? 0);
    this.kept.set(key, tile);
    for (const [old, {pixels}] of this.kept) {
      if (this.pixels <= KEPT_PIXELS || old === key) break;
      this.kept.delete(old);
      this.kind.delete(old);
      this.pixels -= pixels;
    }
  }

  /** Close the requests of tiles for which `wanted(z, x, y)` is false. */
  prune(wanted) {
    for (const [key, own] of [...this.flying, ...this.queue.map(item => [item.key, item.own])]) {
      if (!wanted(...key.split('/').map(Number))) own.abort();
    }
  }

  stop() {
    this.prune(() => false);
  }
}

/** The response to a URL; a server that is busy is asked again after the time that it names. */
export async function patientFetch(url, signal) {
  for (let tries = 0; ; tries++) {
    const response = await fetch(url, {signal});
    if (response.ok) return response;
    if (!BUSY.includes(response.status) || tries === RETRIES) throw new Error(`HTTP ${response.status}`);
    await pause(Number(response.headers.get('Retry-After')) || 2 ** tries, signal);
  }
}

function pause(seconds, signal) {
  return new Promise((done, stop) => {
    const timer = setTimeout(done, seconds * 1000);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      stop(signal.reason);
    });
  });
}

/** Bytes of an opaque picture, four per pixel, exactly as they were encoded. */
export async function numbersOf(blob) {
  const bitmap = await createImageBitmap(blob, {premultiplyAlpha: 'none', colorSpaceConversion: 'none'});
  const {width, height} = bitmap;
  const context = new OffscreenCanvas(width, height).getContext('2d', {willReadFrequently: true});
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const data = new Uint8Array(context.getImageData(0, 0, width, height).data.buffer);
  return {data, width, height, pixels: width * height};
}

/** A picture with its own colours, as a canvas. */
export async function pictureOf(blob) {
  const bitmap = await createImageBitmap(blob);
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  canvas.getContext('2d').drawImage(bitmap, 0, 0);
  bitmap.close();
  return {canvas, width: canvas.width, height: canvas.height, pixels: canvas.width * canvas.height};
}
