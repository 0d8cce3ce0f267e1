// What is not inferred yet is hatched, so that blank never looks like 'no class'; what failed is crossed.

const STEP = 8;

function pattern(context, color, crossed) {
  const tile = document.createElement('canvas');
  tile.width = tile.height = STEP * 2;
  const pen = tile.getContext('2d');
  [pen.strokeStyle, pen.lineWidth] = [color, 2];
  for (const shift of [-STEP * 2, 0, STEP * 2]) {
    pen.moveTo(shift, STEP * 2);
    pen.lineTo(shift + STEP * 2, 0);
    if (crossed) {
      pen.moveTo(shift, 0);
      pen.lineTo(shift + STEP * 2, STEP * 2);
    }
  }
  pen.stroke();
  return context.createPattern(tile, 'repeat');
}

/** A layer over the prediction; `states()` tells {extent, state: 'waiting' | 'failed'} of what is to be marked. */
export function waitingLayer(states) {
  const canvas = document.createElement('canvas');
  canvas.className = 'answer waiting';
  return new ol.layer.Layer({
    zIndex: 20,
    source: new ol.source.Vector(), // a layer without source is not drawn
    render({size, pixelRatio, coordinateToPixelTransform}) {
      const [width, height] = size.map(side => Math.round(side * pixelRatio));
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, {width, height});
      const context = canvas.getContext('2d');
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, width, height);
      context.scale(pixelRatio, pixelRatio);
      const marked = states();
      canvas.dataset.waiting = marked.length;
      const fills = {
        waiting: pattern(context, 'rgba(40, 48, 58, .42)', false), failed: pattern(context, 'rgba(179, 38, 30, .6)', true),
      };
      for (const {extent, state} of marked) {
        const [left, top] = apply(coordinateToPixelTransform, extent[0], extent[3]);
        const [right, bottom] = apply(coordinateToPixelTransform, extent[2], extent[1]);
        if (state === 'waiting') {
          context.fillStyle = 'rgba(255, 255, 255, .22)';
          context.fillRect(left, top, right - left, bottom - top);
        }
        context.fillStyle = fills[state];
        context.fillRect(left, top, right - left, bottom - top);
      }
      return canvas;
    },
  });
}

const apply = (t, x, y) => [t[0] * x + t[2] * y + t[4], t[1] * x + t[3] * y + t[5]];
