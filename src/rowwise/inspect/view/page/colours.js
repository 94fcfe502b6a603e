// A colour per row, from a column of numbers or of labels.

// Eight hues that eyes with colour blindness tell apart (Wong, Nature Methods 8, 2011).
const HUES = [
  [0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167],
  [86, 180, 233], [213, 94, 0], [148, 133, 30], [120, 94, 240],
];
const OTHER = [140, 140, 140];
// From little to much, equally bright steps in both themes (after viridis: Smith and van der Walt).
const RAMPS = {
  light: [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [218, 200, 20]],
  dark: [[120, 81, 169], [84, 114, 190], [45, 165, 160], [110, 210, 105], [253, 231, 37]],
};
const GREY = { light: [165, 168, 176], dark: [98, 104, 115] };

const pack = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;
export const grey = (dark) => GREY[dark ? "dark" : "light"];

function onRamp(ramp, share) {
  const at = share * (ramp.length - 1), i = Math.min(Math.floor(at), ramp.length - 2);
  return ramp[i].map((part, c) => Math.round(part + (ramp[i + 1][c] - part) * (at - i)));
}

// Where the middle 98 percent lie: some rows far off shall not take all colours.
function bounds(values) {
  const some = [];
  const step = Math.max(1, Math.floor(values.length / 20000));
  for (let i = 0; i < values.length; i += step) if (!Number.isNaN(values[i])) some.push(values[i]);
  some.sort((a, b) => a - b);
  if (!some.length) return [0, 1];
  return [some[Math.floor(0.01 * (some.length - 1))], some[Math.ceil(0.99 * (some.length - 1))]];
}

// Colours as pixels, (V,), and what the legend says; of labels, also which entry each row has, (V,).
export function colours(column, values, rows, dark) {
  const pixels = new Uint32Array(rows), none = pack(grey(dark));
  if (!column) return { pixels: pixels.fill(pack(HUES[0])), legend: [] };
  if (column.labels) {
    const hues = column.labels.map((_, i) => HUES[i] ?? OTHER), packed = hues.map(pack);
    const entries = new Int32Array(rows);
    for (let i = 0; i < rows; i++) {
      pixels[i] = Number.isNaN(values[i]) ? none : packed[values[i]];
      entries[i] = Number.isNaN(values[i]) ? -1 : Math.min(values[i], HUES.length);
    }
    const legend = column.labels.slice(0, HUES.length).map((name, i) => ({ name, colour: css(hues[i]) }));
    if (column.labels.length > HUES.length)
      legend.push({ name: `${column.labels.length - HUES.length} others`, colour: css(OTHER) });
    return { pixels, legend, entries };
  }
  const ramp = RAMPS[dark ? "dark" : "light"], scale = column.log ? Math.log1p : (x) => x;
  const steps = Array.from({ length: 256 }, (_, i) => pack(onRamp(ramp, i / 255)));
  const [low, high] = bounds(values), from = scale(low), width = scale(high) - from || 1;
  for (let i = 0; i < rows; i++) {
    const share = (scale(values[i]) - from) / width;
    pixels[i] = Number.isNaN(share) ? none : steps[Math.round(255 * Math.min(1, Math.max(0, share)))];
  }
  return { pixels, scale: { low, high, log: column.log, stops: ramp.map(css) } };
}
