"use strict";
// longest side in pixels: larger pictures are scaled down before they are sent, as the detector uses even fewer pixels
const LONGEST = 1280;
const at = (id) => document.getElementById(id);
const frame = document.createElement("canvas");
let stream = null;
let opening = false;
let turn = 0;
let chosen = null;

class Denied extends Error {}

// inserts names and messages as text, never as markup
function element(tag, text, ...inside) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  made.append(...inside);
  return made;
}

function say(text, alarm = false) {
  at("state").textContent = text;
  at("state").className = alarm ? "alarm" : "";
}

// the source's pixels, scaled down to at most LONGEST a side, as a JPEG in Base64
async function encode(source, width, height) {
  const scale = Math.min(1, LONGEST / Math.max(width, height));
  frame.width = Math.max(1, Math.round(width * scale));
  frame.height = Math.max(1, Math.round(height * scale));
  frame.getContext("2d").drawImage(source, 0, 0, frame.width, frame.height);
  const blob = await new Promise((done) => frame.toBlob(done, "image/jpeg", 0.92));
  return new Promise((done, fail) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => fail(reader.error);
    reader.readAsDataURL(blob);
  });
}

async function ask(b64) {
  const headers = {"Content-Type": "application/json"};
  const token = sessionStorage.getItem("token");
  if (token) headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch("v1/models/faces:predict", {method: "POST", headers, body: JSON.stringify({instances: [{b64}]})});
  } catch {
    throw new Error("the server has ended or cannot be reached");
  }
  const body = await answer.json();
  if (answer.status === 401) throw new Denied();
  if (!answer.ok) throw new Error(body.error);
  const [record] = body.predictions;
  if (record.error) throw new Error(record.error);
  return record;
}

function colour(label) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${label}`).trim() || "gray";
}

// where a label lies in the picture and off the other rectangles, [x, y, width, height]: above or below its face, or
// inside if it covers little of it; undefined where there is no room
function labelPlace(face, width, height, others) {
  const {width: across, height: down} = at("picture"), [x, y, faceWidth, faceHeight] = face.box;
  const left = (wanted) => Math.max(0, Math.min(wanted, across - width));
  const free = ([x, y]) => !others.some((other) =>
    x < other[0] + other[2] && x + width > other[0] && y < other[1] + other[3] && y + height > other[1]);
  const rows = [y - height, y + faceHeight].filter((row) => row >= 0 && row + height <= down);
  if (height <= faceHeight / 4) rows.push(Math.max(0, Math.min(y, down - height)));
  const found = rows.flatMap((row) => [[left(x), row], [left(x + faceWidth - width), row]]).find(free);
  return found && [...found, width, height];
}

function draw(faces) {
  const canvas = at("picture"), pen = canvas.getContext("2d");
  canvas.width = frame.width;
  canvas.height = frame.height;
  pen.drawImage(frame, 0, 0);
  const unit = Math.max(frame.width, frame.height) / 400;
  faces.forEach((face) => {
    const [x, y, width, height] = face.box;
    pen.lineWidth = 1.2 * unit;
    pen.strokeStyle = colour(face.emotion.label);
    pen.strokeRect(x, y, width, height);
    for (const [across, down] of Object.values(face.keypoints)) {
      pen.beginPath();
      // keypoints are relative to pixel centres, canvas coordinates to pixel edges
      pen.arc(across + 0.5, down + 0.5, Math.min(1.6 * unit, width / 40), 0, 2 * Math.PI);
      pen.fillStyle = "#fff";
      pen.fill();
      pen.lineWidth = 0.4 * unit;
      pen.strokeStyle = "#111";
      pen.stroke();
    }
  });
  // labels come last and cover no face; in a crowd they are smaller, then only the number, or left out
  const labels = [];
  faces.forEach((face, index) => {
    const {label} = face.emotion, others = [...labels, ...faces.filter((each) => each !== face).map((each) => each.box)];
    const text = `${index + 1} ${label}`, tries = [[text, 1], [text, 0.7], [text, 0.5], [`${index + 1}`, 0.5]];
    for (const [words, size] of tries) {
      pen.font = `600 ${9 * size * unit}px system-ui, sans-serif`;
      const width = pen.measureText(words).width + 6 * size * unit, height = 11 * size * unit;
      const plate = labelPlace(face, width, height, others);
      if (!plate) continue;
      labels.push(plate);
      pen.fillStyle = colour(label);
      pen.fillRect(...plate);
      pen.textBaseline = "bottom";
      pen.fillStyle = "#111";
      pen.fillText(words, plate[0] + 3 * size * unit, plate[1] + 10.5 * size * unit);
      break;
    }
  });
  canvas.hidden = false;
  at("empty").hidden = true;
}

function bar(label, share) {
  const fill = element("i", null), track = element("span", null, fill);
  fill.style.setProperty("--share", 100 * share);
  fill.style.setProperty("--colour", `var(--${label}, gray)`);
  track.className = "track";
  const made = element("div", null, element("span", label), track, element("span", `${Math.round(100 * share)}%`));
  made.className = "bar";
  return made;
}

function row(face, place) {
  const {label, probabilities} = face.emotion;
  const title = element("h3", `${place + 1} ${label}`, element("span", `score ${face.score.toFixed(2)}`));
  title.style.setProperty("--colour", `var(--${label}, gray)`);
  const bars = Object.entries(probabilities).sort((one, other) => other[1] - one[1]);
  return element("li", null, title, ...bars.map(([name, share]) => bar(name, share)));
}

function show(record, seconds) {
  const {faces, ms} = record;
  draw(faces);
  at("faces").replaceChildren(...faces.map(row));
  at("count").textContent = faces.length === 0 ? "no face" : faces.length === 1 ? "1 face" : `${faces.length} faces`;
  const parts = Object.entries(ms).map(([name, value]) => `${name} ${value.toFixed(1)} ms`);
  at("figures").textContent = [`${record.width}x${record.height}`, ...parts, `round trip ${Math.round(1000 * seconds)} ms`].join(", ");
  at("panel").hidden = false;
  at("login").hidden = true;
  say("");
}

async function analyse(source, width, height) {
  const mine = ++turn;
  try {
    const b64 = await encode(source, width, height), start = performance.now();
    const record = await ask(b64);
    // a late answer belongs to a picture that is no longer current
    if (mine === turn) show(record, (performance.now() - start) / 1000);
  } catch (error) {
    if (mine !== turn) return;
    stop();
    if (error instanceof Denied) {
      at("login").hidden = false;
      at("token").focus();
      say("The server refused the request: it requires a token.", true);
    } else {
      say(error.message, true);
    }
  }
}

async function photo() {
  if (at("file").files.length) [chosen] = at("file").files;
  // otherwise choosing the same photo again would fire no change event
  at("file").value = "";
  if (!chosen) return;
  stop();
  say("analysing the photo");
  let picture;
  try {
    picture = await createImageBitmap(chosen);
  } catch {
    say("this browser cannot read that file as a picture", true);
    return;
  }
  await analyse(picture, picture.width, picture.height);
  picture.close();
}

function stop() {
  turn++;
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  at("camera").textContent = "Camera";
  at("camera").setAttribute("aria-pressed", "false");
}

async function camera() {
  // of two streams opened at the same time, one could not be stopped
  if (opening) return;
  if (stream) {
    stop();
    return;
  }
  // browsers allow the camera only on localhost and over https
  if (!navigator.mediaDevices) {
    say("the camera needs https, or a browser on the server's own machine", true);
    return;
  }
  const video = document.createElement("video");
  opening = true;
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: "user", width: {ideal: LONGEST}}});
    video.muted = video.playsInline = true;
    video.srcObject = stream;
    await video.play();
  } catch {
    stop();
    say("there is no camera, or this page may not use it", true);
    return;
  } finally {
    opening = false;
  }
  const mine = stream;
  // stopped in the meantime because a photo was chosen
  if (!mine) return;
  at("camera").textContent = "Stop";
  at("camera").setAttribute("aria-pressed", "true");
  while (stream === mine) {
    await analyse(video, video.videoWidth, video.videoHeight);
    // no frame is sent while the page is hidden: the callback is then not called
    await new Promise(requestAnimationFrame);
  }
}

at("file").addEventListener("change", photo);
at("camera").addEventListener("click", camera);
at("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", at("token").value);
  at("login").hidden = true;
  say("Choose a photo or the camera.");
  photo();
});
