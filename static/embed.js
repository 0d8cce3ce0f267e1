// `?embed=1`: the map alone, for other pages, which hear of its view and layer and may set them.

const NAME = 'titiler-inference';

export const isEmbedded = () => new URLSearchParams(location.search).get('embed') === '1';

/** Tell the page around this one. What is told stands in the address too; nothing of it is secret. */
export function tellParent({view, state, pair, tilejson, extent}) {
  if (!isEmbedded() || window.parent === window) return;
  const message = {
    type: `${NAME}:view`,
    view: {...view, bounds: extent},
    layer: {
      scene: pair.scene, model: pair.model, revision: tilejson.revision, opacity: state.opacity, mode: state.mode,
      visible: state.visible, threshold: state.threshold,
    },
  };
  window.parent.postMessage(message, '*');
}

/** `set({view?, opacity?})` is called when the page around asks for it. */
export function hearParent(set) {
  if (!isEmbedded()) return;
  addEventListener('message', ({source, data}) => {
    if (source === window.parent && data?.type === `${NAME}:set`) set(data);
  });
}
