// Class numbers -> colours, in a shader or, without WebGL, on a canvas. Both read the same two-channel tiles: red is the
// class, green the confidence (0..254, 255: not known), blue whether there is any prediction.

const STEPS = 254, UNKNOWN = 255;
const CLEAR = [0, 0, 0, 0];

export const rgbOf = color => [1, 3, 5].map(place => parseInt(color.slice(place, place + 2), 16));

const variableOf = value => `class${value}`;

/** Confidence below which nothing is shown, in the tile's own steps. */
export const stepsOf = threshold => threshold * STEPS / 100;

/** The numbers that a toggle or the slider changes: no shader is compiled again for them. */
export function variablesOf(classes, {threshold}) {
  const shown = Object.fromEntries(classes.map(item => [variableOf(item.value), item.visible ? 1 : 0]));
  return {...shown, threshold: stepsOf(threshold)};
}

/** Style of a WebGL tile layer. */
export function styleOf(classes, settings) {
  const number = band => ['round', ['*', ['band', band], 255]];
  const colors = Array.from({length: 256}, () => [...CLEAR]);
  for (const item of classes) colors[item.value] = [...rgbOf(item.color), 1];
  const visible = classes.flatMap(item => [item.value, ['var', variableOf(item.value)]]);
  return {
    variables: variablesOf(classes, settings),
    color: ['case',
      ['all', ['>', ['band', 3], 0.5], ['>=', number(2), ['var', 'threshold']], ['>', ['match', number(1), ...visible, 0], 0.5]],
      ['palette', number(1), colors.map(([r, g, b, a]) => `rgba(${r},${g},${b},${a})`)],
      CLEAR],
  };
}

/** Paint a tile's numbers on its canvas. */
export function paint(tile, classes, {threshold}) {
  const table = new Uint32Array(256), least = stepsOf(threshold);
  const little = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
  for (const {value, color, visible} of classes) {
    const [r, g, b] = rgbOf(color);
    if (visible) table[value] = little ? (255 << 24 | b << 16 | g << 8 | r) >>> 0 : (r << 24 | g << 16 | b << 8 | 255) >>> 0;
  }
  const {data, width, height} = tile, out = new Uint32Array(width * height);
  for (let i = 0, j = 0; i < out.length; i++, j += 4) {
    if (data[j + 2] && data[j + 1] >= least) out[i] = table[data[j]];
  }
  tile.canvas ??= Object.assign(document.createElement('canvas'), {width, height});
  tile.canvas.getContext('2d').putImageData(new ImageData(new Uint8ClampedArray(out.buffer), width, height), 0, 0);
}

/** A tile in the model's own colours -> class, confidence (not known), validity; in place. */
export function numbersFromColors(data, classes) {
  const known = new Map(classes.map(({value, own}) => [rgbOf(own).reduce((sum, part) => 256 * sum + part), value]));
  for (let i = 0; i < data.length; i += 4) {
    const value = data[i + 3] ? known.get((256 * data[i] + data[i + 1]) * 256 + data[i + 2]) : undefined;
    data.set(value === undefined ? [0, 0, 0, 255] : [value, UNKNOWN, 255, 255], i);
  }
}
