// The maps: one with everything, and beside it, when asked for, the imagery alone and the labels. They share a view.

const KEYS = 'Arrow keys pan, plus and minus zoom.';

function makeMap(target, view, controls) {
  return new ol.Map({
    target,
    view,
    controls,
    maxTilesLoading: 32,
    // The map is the whole page, so the wheel works before the first click; keys still want the focus.
    interactions: ol.interaction.defaults.defaults({onFocusOnly: false, altShiftDragRotate: false, pinchRotate: false}),
  });
}

export class Panes {
  constructor(view) {
    this.view = view;
    const controls = ol.control.defaults.defaults({rotate: false, attributionOptions: {collapsible: false}});
    this.main = makeMap('map', view, controls.extend([new ol.control.ScaleLine()]));
    this.imagery = makeMap('map-imagery', view, []);
    this.labels = makeMap('map-labels', view, []);
    this.mode = 'over';
  }

  /** `over`, `swipe` or `side`. */
  show(mode, hasLabels) {
    this.mode = mode;
    const stage = document.getElementById('stage');
    stage.dataset.mode = mode;
    stage.dataset.labels = String(Boolean(hasLabels));
    document.getElementById('swipe').hidden = mode !== 'swipe';
    for (const map of [this.main, this.imagery, this.labels]) map.updateSize();
  }

  /** Share of the map's width, in percent, left of which the prediction is cut away. */
  swipe(share) {
    const stage = document.getElementById('stage');
    stage.style.setProperty('--swipe', `${share}%`);
  }

  /** Extent of what is seen of the main map. */
  seen() {
    const size = this.main.getSize();
    return size && this.view.getCenter() ? this.view.calculateExtent(size) : null;
  }

  setView(view) {
    this.view = view;
    for (const map of [this.main, this.imagery, this.labels]) map.setView(view);
  }
}

export const describe = what => `${what} ${KEYS}`;
