// A tile loader that closes requests nobody waits for any more, so that the server can drop the inference, and that
// comes back after a "busy" answer. OpenLayers does neither: it lets stale tiles finish and never asks twice.

const IDLE = 0, LOADING = 1, ERROR = 3; // of ol/TileState, which the published build does not name
const BUSY = [429, 502, 503, 504];
const RETRIES = 6;
const SETTLE_MS = 100; // a pan or zoom is many events; only the view it ends in counts

/** Load the source's tiles politely; `onTraffic({inFlight, failed})` is called whenever either changes. */
export function polite(map, source, onTraffic = () => {}) {
  const flying = new Map();
  let failed = 0;
  const tell = () => onTraffic({inFlight: flying.size, failed});

  source.setTileLoadFunction((tile, url) => {
    const abort = new AbortController();
    flying.set(tile, abort);
    tell();
    load(tile, url, abort.signal)
      .catch(error => {
        tile.setState(ERROR); // frees the place in OpenLayers' queue
        if (error.name === 'AbortError') tile.setState(IDLE); // asked for again when it comes back into view
        else failed += 1;
      })
      .finally(() => {
        if (flying.get(tile) === abort) flying.delete(tile);
        tell();
      });
  });

  const prune = () => {
    const view = map.getView(), grid = source.getTileGrid();
    const z = grid.getZForResolution(view.getResolution(), source.zDirection);
    const seen = view.calculateExtent(map.getSize());
    for (const [tile, abort] of flying) {
      const extent = grid.getTileCoordExtent(tile.tileCoord);
      if (tile.tileCoord[0] !== z || !ol.extent.intersects(extent, seen)) abort.abort();
    }
  };
  let timer;
  map.getView().on('propertychange', () => {
    clearTimeout(timer);
    timer = setTimeout(prune, SETTLE_MS);
  });

  const retry = () => {
    failed = 0;
    tell();
    source.refresh();
  };
  return {retry};
}

async function load(tile, url, signal) {
  const blob = await (await patientFetch(url, signal)).blob();
  const address = URL.createObjectURL(blob), image = tile.getImage();
  for (const end of ['load', 'error']) image.addEventListener(end, () => URL.revokeObjectURL(address), {once: true});
  image.src = address;
}

async function patientFetch(url, signal) {
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
