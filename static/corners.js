// A polygon drawn without a pointer: the map is moved under a cross, and Enter sets a corner there.
import {say} from './dom.js';

const FAR = 64, FINE = 8; // pixels of a step, and of one with Shift
const STEPS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};
const LEAST = 3;

/** Keys of a map while a polygon is drawn; `current()` gives the interaction, or null. */
export function watchCorners(map, current) {
  let corners = [], owner = null, sketch = null;
  // OpenLayers moves a sketch's loose end with a pointer only; what it holds itself counts again at the next corner.
  const follow = () => {
    if (sketch && corners.length) sketch.getGeometry().setCoordinates([[...corners, map.getView().getCenter(), corners[0]]]);
  };
  const enter = drawing => {
    const place = map.getView().getCenter(), last = corners.at(-1);
    if (last && last[0] === place[0] && last[1] === place[1]) {
      if (corners.length < LEAST) return say(`A polygon has ${LEAST} corners at least; move the map and press Enter.`);
      say(`The polygon has ${corners.length} corners.`);
      return drawing.finishDrawing();
    }
    drawing.appendCoordinates([place]);
    corners.push(place);
    const [lon, lat] = ol.proj.toLonLat(place);
    say(`Corner ${corners.length} at ${lat.toFixed(5)}, ${lon.toFixed(5)}.${corners.length < LEAST ? '' : ' Enter again ends the polygon.'}`);
  };
  const back = drawing => {
    if (!corners.length) return say('There is no corner to take away.');
    corners.pop();
    if (corners.length) drawing.removeLastPoint();
    else drawing.abortDrawing();
    say(`${corners.length} ${corners.length === 1 ? 'corner is' : 'corners are'} left.`);
  };
  map.getTargetElement().addEventListener('keydown', event => {
    const drawing = current(), step = STEPS[event.key];
    if (!drawing || event.target !== map.getTargetElement() || event.ctrlKey || event.metaKey || event.altKey) return;
    if (owner !== drawing) {
      [owner, corners, sketch] = [drawing, [], null];
      drawing.on('drawstart', ({feature}) => { sketch = feature; });
      drawing.on(['drawend', 'drawabort'], () => { sketch = null; });
    }
    if (event.key === 'Enter') enter(drawing);
    else if (event.key === 'Backspace') back(drawing);
    else if (step) {
      const size = (event.shiftKey ? FINE : FAR) * map.getView().getResolution();
      map.getView().adjustCenter(step.map(part => part * size));
    } else return;
    follow();
    event.preventDefault();
    event.stopPropagation();
  }, true); // before the map's own, whose panning takes a while: a corner would be set on the way
}
