// @vladmandic/human: faces, mesh and emotions, on WebAssembly; the protocol is that of loop.py
import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

// packages are where peers.py has installed them, not next to this file
const require = createRequire(path.join(process.argv[2], 'package.json'));
// what the library logs must not mix with the answers
const answer = (value) => process.stdout.write(JSON.stringify(value) + '\n');
console.log = console.error;

// Node's own fetch reads no files
const web = globalThis.fetch;
globalThis.fetch = (url, ...rest) =>
  String(url).startsWith('file:') ? Promise.resolve(new Response(fs.readFileSync(fileURLToPath(url)))) : web(url, ...rest);

const sharp = require('sharp');
const home = path.dirname(path.dirname(require.resolve('@vladmandic/human')));
const wasm = path.dirname(require.resolve('@tensorflow/tfjs-backend-wasm/package.json'));
const { Human } = require(path.join(home, 'dist', 'human.node-wasm.js'));
const off = { enabled: false };
const human = new Human({
  backend: 'wasm',
  wasmPath: path.join(wasm, 'dist') + path.sep,
  modelBasePath: `file://${home}/models/`,
  debug: false,
  cacheSensitivity: 0,
  body: off, hand: off, object: off, gesture: off, segmentation: off, filter: off,
  face: { enabled: true, detector: { maxDetected: 20 }, mesh: { enabled: true }, iris: off, description: off, emotion: { enabled: true } },
});
await human.init();
await human.load();

async function look(file) {
  const { data, info } = await sharp(file).flatten({ background: '#fff' }).toColourspace('srgb').removeAlpha().raw().toBuffer({ resolveWithObject: true });
  const image = human.tf.tensor3d(data, [info.height, info.width, info.channels], 'int32');
  try {
    const found = await human.detect(image);
    if (found.error) throw new Error(found.error);
    return found.face.length;
  } finally {
    human.tf.dispose(image);
  }
}

answer({ ready: true });
for await (const line of readline.createInterface({ input: process.stdin })) {
  const wall = performance.now();
  const cpu = process.cpuUsage();
  let said;
  try {
    said = { faces: await look(line) };
  } catch (error) {
    said = { error: String(error) };
  }
  const { user, system } = process.cpuUsage(cpu);
  answer({ ...said, ms: performance.now() - wall, cpu_ms: (user + system) / 1000 });
}
