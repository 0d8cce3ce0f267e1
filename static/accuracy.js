// How right a prediction is, as tables: measures of each class, and the confusion matrix.
import {make} from './dom.js';

const MEASURES = [['iou', 'IoU'], ['f1', 'F1'], ['precision', 'Precision'], ['recall', 'Recall']];
const shown = value => value === null || value === undefined ? '–' : value.toFixed(3);

export function measuresOf({classes, overall_accuracy: overall, kappa, mean_iou: mean, pixels}) {
  const head = ['Class', ...MEASURES.map(([, title]) => title)];
  return make('div', {className: 'wide', tabIndex: 0, role: 'region', 'aria-label': 'Accuracy of each class'},
    make('p', {}, make('strong', {text: `Overall accuracy ${shown(overall)}`}), ` · mean IoU ${shown(mean)} · kappa ${shown(kappa)}`),
    make('p', {className: 'quiet', text: `${pixels?.judged ?? 0} label pixels compared`}),
    make('table', {}, make('thead', {}, make('tr', {}, ...head.map(text => make('th', {scope: 'col', text})))),
      make('tbody', {}, ...classes.map(item => make('tr', {}, make('th', {scope: 'row', text: item.name}),
        ...MEASURES.map(([key]) => make('td', {className: 'number', text: shown(item[key])})))))));
}

/** Rows are the truth, columns the prediction; the darker, the larger the share of the row. */
export function matrixOf({classes, confusion_matrix: counts}) {
  const cell = (count, sum) => {
    const node = make('td', {className: 'number', text: String(count)});
    node.style.setProperty('--share', String(sum ? count / sum : 0));
    return node;
  };
  return make('div', {className: 'wide', tabIndex: 0, role: 'region', 'aria-label': 'Confusion matrix'},
    make('table', {className: 'matrix'}, make('caption', {text: 'Rows: label, columns: prediction (pixels)'}),
      make('thead', {}, make('tr', {}, make('td'), ...classes.map(({name}) => make('th', {scope: 'col', text: name})))),
      make('tbody', {}, ...counts.map((row, i) => {
        const sum = row.reduce((a, b) => a + b, 0);
        return make('tr', {}, make('th', {scope: 'row', text: classes[i].name}), ...row.map(count => cell(count, sum)));
      }))));
}
