// The rows as points. Pixels are set one by one: some millions of points a frame need no more, and
// it works where there is no graphics card.

const REACH = 8; // CSS pixels from the pointer to a point that counts as under it
const MARGIN = 30; // CSS pixels from the border, within which a point is not in view
const FADED = 50; // of 255: how much is seen of points that are not lit

export class Picture {
  constructor(points, labels) {
    this.points = points;
    this.labels = labels;
    this.snapshots = []; // Float32Array (2 V) each
    this.at = 0; // which snapshot, or between which
    this.centre = [0, 0];
    this.zoom = 1; // CSS pixels per unit
    this.marks = []; // {id, colour}
    this.lit = null; // ids of rows that stand out, or null: all do
    this.hidden = null; // Uint8Array (V), 1 for rows that are not shown, or null: none
    this.names = []; // {id, text}
    this.dirty = false;
  }

  get rows() { return this.snapshots[0].length / 2; }

  // Sets `now`, the rows' coordinates at this snapshot: (2 V), NaN for rows that it does not have.
  place() {
    const early = Math.floor(this.at), share = this.at - early;
    const a = this.snapshots[early], b = this.snapshots[Math.min(early + 1, this.snapshots.length - 1)];
    if (share === 0) { this.now = a; return; }
    this.between ??= new Float32Array(a.length);
    for (let i = 0; i < a.length; i++) this.between[i] = a[i] + share * (b[i] - a[i]);
    this.now = this.between;
  }

  resize() {
    const box = this.labels.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    this.ratio = ratio;
    this.width = Math.max(1, box.width);
    this.height = Math.max(1, box.height);
    for (const canvas of [this.points, this.labels]) {
      canvas.width = Math.round(this.width * ratio);
      canvas.height = Math.round(this.height * ratio);
    }
    this.image = new ImageData(this.points.width, this.points.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
  }

  // All points of all snapshots, with a margin.
  fit() {
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const coordinates of this.snapshots)
      for (let i = 0; i < coordinates.length; i += 2) {
        if (coordinates[i] < left) left = coordinates[i];
        if (coordinates[i] > right) right = coordinates[i];
        if (coordinates[i + 1] < low) low = coordinates[i + 1];
        if (coordinates[i + 1] > high) high = coordinates[i + 1];
      }
    if (!(right >= left)) [left, right, low, high] = [-1, 1, -1, 1];
    this.centre = [(left + right) / 2, (low + high) / 2];
    const margin = 0.92;
    this.zoom = margin * Math.min(
      this.width / Math.max(right - left, 1e-9), this.height / Math.max(high - low, 1e-9));
    this.least = this.zoom / 8;
  }

  // CSS pixels of a row, and coordinates of a pixel.
  where(id) {
    return [
      this.width / 2 + (this.now[2 * id] - this.centre[0]) * this.zoom,
      this.height / 2 - (this.now[2 * id + 1] - this.centre[1]) * this.zoom,
    ];
  }

  zoomAt(x, y, factor) {
    const zoom = Math.min(Math.max(this.zoom * factor, this.least), this.least * 1e7);
    const keep = 1 / this.zoom - 1 / zoom; // the point under the pointer stays there
    this.centre[0] += (x - this.width / 2) * keep;
    this.centre[1] -= (y - this.height / 2) * keep;
    this.zoom = zoom;
  }

  pan(dx, dy) {
    this.centre[0] -= dx / this.zoom;
    this.centre[1] += dy / this.zoom;
  }

  // Bring a row into view; what is in view already stays where it is.
  show(id) {
    const [x, y] = this.where(id);
    const inside = x > MARGIN && x < this.width - MARGIN && y > MARGIN && y < this.height - MARGIN;
    if (!inside && !Number.isNaN(x)) this.centre = [this.now[2 * id], this.now[2 * id + 1]];
  }

  draw() {
    if (this.dirty) return;
    this.dirty = true;
    requestAnimationFrame(() => {
      this.dirty = false;
      this.place();
      this.drawPoints();
      this.drawLabels();
    });
  }

  drawPoints() {
    this.pixels.fill(0);
    const size = this.rows < 3000 ? 7 : this.rows < 30000 ? 5 : this.rows < 300000 ? 3 : 2;
    const radius = (size * this.ratio) / 2;
    // Rows that were trained are drawn over those that were not, which are hollow; lit rows last.
    const kinds = [[disc(radius, false), 0], [disc(radius, radius > 2), 1]];
    const visible = this.lit ? FADED : 255;
    for (const [cells, untrained] of kinds.toReversed()) this.dots(cells, untrained, visible);
    if (this.lit) for (const [cells, untrained] of kinds) this.dots(cells, untrained, 255, this.lit);
    this.points.getContext("2d").putImageData(this.image, 0, 0);
  }

  // Draw the trained or the untrained rows of ids, or of all.
  dots(cells, untrained, visible, ids = null) {
    const { now, pixels } = this, { width, height } = this.points;
    const scale = this.zoom * this.ratio, count = ids ? ids.length : this.rows;
    const x0 = width / 2 - this.centre[0] * scale, y0 = height / 2 + this.centre[1] * scale;
    for (let k = 0; k < count; k++) {
      const i = ids ? ids[k] : k;
      if (this.untrained[i] !== untrained || this.hidden?.[i]) continue;
      const x = Math.round(x0 + now[2 * i] * scale), y = Math.round(y0 - now[2 * i + 1] * scale);
      if (!(x >= 0 && x < width && y >= 0 && y < height)) continue; // NaN too
      const full = untrained ? this.hollow : this.colour[i];
      const value = ((full & 0xffffff) | (visible << 24)) >>> 0;
      for (const [dx, dy] of cells) {
        const px = x + dx, py = y + dy;
        if (px >= 0 && px < width && py >= 0 && py < height) pixels[py * width + px] = value;
      }
    }
  }

  drawLabels() {
    const context = this.labels.getContext("2d"), style = getComputedStyle(this.labels);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    context.font = `13px ${style.fontFamily}`;
    context.textBaseline = "middle";
    const ink = style.getPropertyValue("--ink"), paper = style.getPropertyValue("--paper");
    const marked = new Set(this.marks.map((mark) => mark.id));
    for (const { id, colour } of this.marks) {
      const [x, y] = this.where(id);
      context.beginPath();
      context.arc(x, y, 6, 0, 7);
      context.lineWidth = 2;
      context.strokeStyle = colour;
      context.stroke();
    }
    context.lineWidth = 3;
    context.lineJoin = "round";
    const taken = []; // boxes of names that stand already: the first ones have the right of way
    for (const { id, text } of this.names) {
      const [x, y] = this.where(id), width = context.measureText(text).width + 8;
      if (!(x > -width && x < this.width && y > -20 && y < this.height + 20)) continue;
      if (taken.some(([u, v, w]) => x < u + w && u < x + width && Math.abs(y - v) < 15)) continue;
      taken.push([x, y, width]);
      context.strokeStyle = paper;
      context.fillStyle = ink;
      context.globalAlpha = marked.size && !marked.has(id) ? 0.45 : 1;
      context.strokeText(text, x + 8, y);
      context.fillText(text, x + 8, y);
    }
    context.globalAlpha = 1;
    if (this.frame) {
      const [x, y, width, height] = this.frame;
      context.setLineDash([5, 4]);
      context.lineWidth = 1.5;
      context.strokeStyle = ink;
      context.strokeRect(x, y, width, height);
      context.setLineDash([]);
    }
  }

  // The row nearest to a pixel, -1 if none is near.
  under(x, y) {
    let best = -1, least = REACH * REACH;
    for (let id = 0; id < this.rows; id++) {
      if (this.hidden?.[id]) continue;
      const [px, py] = this.where(id), far = (px - x) ** 2 + (py - y) ** 2;
      if (far < least || (far === least && this.untrained[best])) [best, least] = [id, far];
    }
    return best;
  }

  inside([x, y, width, height]) {
    const ids = [];
    for (let id = 0; id < this.rows; id++) {
      if (this.hidden?.[id]) continue;
      const [px, py] = this.where(id);
      if (px >= x && px <= x + width && py >= y && py <= y + height) ids.push(id);
    }
    return ids;
  }

  // Rows to name: the first in each part of the picture, as the first are the most frequent.
  spread() {
    const across = Math.max(1, Math.floor(this.width / 150));
    const down = Math.max(1, Math.floor(this.height / 70));
    const first = new Map();
    for (let id = 0; id < this.rows && first.size < across * down; id++) {
      if (this.untrained[id] || this.hidden?.[id]) continue;
      const [x, y] = this.where(id);
      if (!(x >= 0 && x < this.width && y >= 0 && y < this.height)) continue;
      const part = Math.floor((x / this.width) * across) * down + Math.floor((y / this.height) * down);
      if (!first.has(part)) first.set(part, id);
    }
    return [...first.values()];
  }
}

// The pixels of a disc, or of its rim.
function disc(radius, hollow) {
  const cells = [], reach = Math.ceil(radius);
  for (let dx = -reach; dx <= reach; dx++)
    for (let dy = -reach; dy <= reach; dy++) {
      const far = Math.hypot(dx, dy);
      if (far < radius && !(hollow && far < radius - 1.3)) cells.push([dx, dy]);
    }
  return cells.length ? cells : [[0, 0]];
}
