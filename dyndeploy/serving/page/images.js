// Images as tensors: [1, C, H, W], C = 1 (grey) or 3 (red, green, blue).

/** What a model was trained with is not in the file: the ways that are usual. */
export const SCALINGS = {
  "0 to 1": { mean: [0, 0, 0], std: [1, 1, 1] },
  "-1 to 1": { mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] },
  ImageNet: { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] },
  "0 to 255": { mean: [0, 0, 0], std: [1 / 255, 1 / 255, 1 / 255] },
};

/** Draw a file's image, or a pattern without one, to a canvas of this size. */
export async function draw(canvas, file, height, width) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (file) {
    const image = await createImageBitmap(file).catch(() => {
      throw new Error(`${file.name} is no image that this browser reads.`);
    });
    context.drawImage(image, 0, 0, width, height);
    image.close();
    return;
  }
  const sweep = context.createLinearGradient(0, 0, width, height);
  sweep.addColorStop(0, "#10204a");
  sweep.addColorStop(1, "#e8b24c");
  context.fillStyle = sweep;
  context.fillRect(0, 0, width, height);
  context.fillStyle = "#f4f4f4";
  context.beginPath();
  context.ellipse(width / 2, height / 2, width / 4, height / 3, 0.5, 0, 2 * Math.PI);
  context.fill();
}

/** The canvas, scaled, plane by plane. */
export function tensorOf(canvas, channels, scaling, invert) {
  const { width, height } = canvas;
  const pixels = canvas.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, width, height).data;
  const { mean, std } = SCALINGS[scaling];
  const plane = width * height;
  const values = new Float32Array(channels * plane);
  for (let i = 0; i < plane; ++i) {
    const rgb = [pixels[4 * i], pixels[4 * i + 1], pixels[4 * i + 2]].map((v) => (invert ? 255 - v : v) / 255);
    if (channels === 1) values[i] = (0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] - mean[1]) / std[1];
    else for (let c = 0; c < 3; ++c) values[c * plane + i] = (rgb[c] - mean[c]) / std[c];
  }
  return values;
}

const MAP = [[20, 24, 82], [40, 110, 160], [70, 180, 150], [235, 205, 90], [250, 245, 225]];

/** One plane of numbers in colours, dark is low; numbers that are none are red. */
export function heat(canvas, values, height, width) {
  canvas.width = width;
  canvas.height = height;
  const finite = values.filter(Number.isFinite);
  const low = finite.reduce((a, b) => Math.min(a, b), Infinity);
  const high = finite.reduce((a, b) => Math.max(a, b), -Infinity);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  values.forEach((value, index) => {
    let rgb = [220, 30, 30];
    if (Number.isFinite(value)) {
      const at = high > low ? ((value - low) / (high - low)) * (MAP.length - 1) : 0;
      const below = Math.min(Math.floor(at), MAP.length - 2);
      rgb = MAP[below].map((v, c) => v + (at - below) * (MAP[below + 1][c] - v));
    }
    image.data.set([...rgb, 255], 4 * index);
  });
  context.putImageData(image, 0, 0);
  return [low, high];
}
