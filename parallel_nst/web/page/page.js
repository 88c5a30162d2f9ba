// The page: state comes from the server's events, what people do goes to its API. No other address is ever asked.

const at = (id) => document.getElementById(id);
const jobs = new Map(); // id -> job, as the API tells it
const cards = new Map(); // id -> element
const previews = new Map(); // id -> what the shown preview was asked with
let chosen = []; // files of content
let styleFile = null;
let server = { models: [], paintings: [], max_size: 4096, max_bytes: 0 };

class Refused extends Error {}

async function ask(path, options = {}) {
  const answer = await fetch(path, options);
  if (answer.status === 401) {
    openDoor();
    throw new Refused("this server wants its token");
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
    throw new Refused(told.error);
  }
  return answer;
}

function tell(text) {
  at("told").textContent = text;
}

// --- what is asked for

function addPictures(files) {
  const pictures = [...files].filter((file) => file.size > 0);
  const large = pictures.find((file) => file.size > server.max_bytes);
  if (large) return tell(`${large.name} has ${megabytes(large.size)}; this server takes ${megabytes(server.max_bytes)}`);
  chosen.push(...pictures);
  tell("");
  showChosen();
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

function showChosen() {
  at("chosen").replaceChildren(
    ...chosen.map((file, index) => {
      const item = document.createElement("li");
      const image = document.createElement("img");
      image.alt = file.name;
      image.src = URL.createObjectURL(file);
      image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
      const remove = button("×", `leave out ${file.name}`, () => {
        chosen.splice(index, 1);
        showChosen();
      });
      item.append(image, remove);
      return item;
    }),
  );
  at("paint").disabled = chosen.length === 0;
  at("paint").textContent = chosen.length > 1 ? `Paint ${chosen.length}` : "Paint";
}

function button(text, label, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

function showLooks() {
  const before = look();
  const looks = [
    ...server.models.map((model) => ({
      value: `model:${model.name}`,
      text: model.name,
      image: server.paintings.includes(model.name) ? `/v1/paintings/${model.name}` : undefined,
      badge: "at once",
      title: model.about,
    })),
    ...server.paintings.map((name) => ({ value: `painting:${name}`, text: name, image: `/v1/paintings/${name}` })),
  ];
  if (styleFile) looks.push({ value: "own", text: styleFile.name, file: styleFile });
  at("looks").replaceChildren(...looks.map(lookChoice));
  const wanted = document.querySelector(`#looks input[value="${CSS.escape(before)}"]`) ?? document.querySelector("#looks input");
  if (wanted) wanted.checked = true;
  lookChanged();
}

function lookChoice({ value, text, image, file, badge, title }) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name: "look", value });
  const source = image ?? (file ? URL.createObjectURL(file) : null);
  const shown = document.createElement(source ? "img" : "span");
  if (source) Object.assign(shown, { alt: "", src: source });
  else Object.assign(shown, { className: "swatch", textContent: text[0] });
  const mark = document.createElement("span");
  Object.assign(mark, { className: "badge", textContent: badge ?? "", hidden: !badge });
  if (title) label.title = title;
  label.append(input, shown, mark, document.createTextNode(text));
  return label;
}

const look = () => document.querySelector("#looks input:checked")?.value ?? "";

function modelOfLook() {
  const value = look();
  return value.startsWith("model:") ? server.models.find((model) => model.name === value.slice(6)) : null;
}

function lookChanged() {
  const model = modelOfLook();
  at("look-told").textContent = model
    ? `A trained generator${model.takes_style ? " that takes any style picture" : ""}: done in seconds.`
    : "Painted step by step, as fine as can be: takes minutes.";
  at("steps-field").hidden = model !== null;
  at("strength-field").hidden = model !== null && !model.takes_style;
}

function formOf(file) {
  const form = new FormData();
  const value = look();
  const model = modelOfLook();
  form.append("content", file, file.name);
  form.append("size", at("size").value);
  form.append("strength", at("strength").value / 100);
  if (model) {
    form.append("model", model.name);
    if (model.takes_style) {
      if (!styleFile) throw new Refused(`${model.name} wants a style picture; choose one of your own`);
      form.append("style", styleFile, styleFile.name);
    }
    return form;
  }
  if (value === "own") form.append("style", styleFile, styleFile.name);
  else form.append("painting", value.slice("painting:".length));
  form.append("recipe", JSON.stringify({ steps: Number(at("steps").value) }));
  return form;
}

async function paint(event) {
  event.preventDefault();
  const sending = chosen; // what is added from now on is for another look
  chosen = [];
  tell("");
  showChosen();
  try {
    const forms = sending.map(formOf);
    while (sending.length) {
      const answer = await ask("/v1/jobs", { method: "POST", body: forms.shift() });
      sending.shift();
      update([await answer.json()]);
    }
  } catch (error) {
    tell(error instanceof Refused ? error.message : "the server cannot be reached; try again");
  }
  chosen = [...sending, ...chosen];
  showChosen();
}

// --- what the server tells

function update(told) {
  for (const job of told) jobs.set(job.id, job);
  order();
}

function forget(ids) {
  for (const id of ids) {
    jobs.delete(id);
    previews.delete(id);
    cards.get(id)?.remove();
    cards.delete(id);
  }
  order();
}

const active = (job) => job.state === "queued" || job.state === "running";

function order() {
  const all = [...jobs.values()];
  const queue = all.filter(active).sort((a, b) => rank(a) - rank(b));
  const places = {}; // told with the job that changed only: those of the others follow from their order
  for (const job of queue) if (job.state === "queued") job.place = places[job.kind] = (places[job.kind] ?? 0) + 1;
  const ended = all.filter((job) => !active(job)).sort((a, b) => b.created - a.created);
  lay(at("queue"), queue);
  lay(at("results"), ended);
  at("nothing").hidden = queue.length > 0;
  at("all").hidden = ended.filter((job) => job.state === "done").length < 2;
}

const rank = (job) => (job.state === "running" ? -1 : job.place ?? 1e9);

function lay(list, wanted) {
  wanted.forEach((job, index) => {
    const card = cardOf(job);
    fill(card, job);
    if (list.children[index] !== card) {
      const focused = card.contains(document.activeElement) ? document.activeElement : null;
      list.insertBefore(card, list.children[index] ?? null);
      focused?.focus();
    }
  });
  while (list.children.length > wanted.length) list.lastElementChild.remove();
}

function cardOf(job) {
  if (cards.has(job.id)) return cards.get(job.id);
  const card = at("job").content.firstElementChild.cloneNode(true);
  const on = (name, act) => card.querySelector(name).addEventListener("click", () => run(act));
  on(".up", () => move(job.id, -1));
  on(".down", () => move(job.id, 1));
  on(".cancel", () => remove(job.id));
  on(".remove", () => remove(job.id));
  on(".again", () => useSettings(jobs.get(job.id)));
  on(".look", () => compare(jobs.get(job.id)));
  card.dataset.id = job.id;
  cards.set(job.id, card);
  return card;
}

async function run(act) {
  try {
    await act();
  } catch (error) {
    tell(error instanceof Refused ? error.message : "the server cannot be reached; try again");
  }
}

function fill(card, job) {
  const part = (name) => card.querySelector(name);
  const show = (name, shown) => { part(name).hidden = !shown; };
  part(".name").textContent = `${job.name} · ${job.settings.model ?? job.settings.style}`;
  part(".state").textContent = stateText(job);
  const progress = part("progress");
  progress.hidden = job.state !== "running";
  progress.value = job.progress?.share ?? 0;
  progress.setAttribute("aria-label", `progress of ${job.name}`);
  const waits = job.state === "queued";
  for (const name of [".up", ".down"]) show(name, waits);
  show(".cancel", active(job));
  show(".download", job.state === "done");
  show(".again", !active(job));
  show(".remove", !active(job));
  part(".download").href = `/v1/jobs/${job.id}/image?download=true`;
  part(".look").setAttribute("aria-label", `compare ${job.name}`);
  part(".look").disabled = job.state !== "done";
  thumb(part(".thumb"), job);
}

function thumb(image, job) {
  const role = job.preview ? "preview" : "content";
  const key = `${job.state}:${role}:${Math.floor((job.progress?.share ?? 0) * 40)}`;
  if (previews.get(job.id) === key) return;
  previews.set(job.id, key);
  image.src = `/v1/jobs/${job.id}/image?role=${role}&v=${encodeURIComponent(key)}`;
}

function stateText(job) {
  if (job.state === "queued") return `waits, place ${job.place ?? "?"}`;
  if (job.state === "running") {
    const progress = job.progress;
    if (!progress) return "begins";
    const left = progress.seconds_left === null ? "" : `, ${duration(progress.seconds_left)} left`;
    return `${Math.round(progress.share * 100)} %, scale ${progress.scale} of ${progress.scales}, step ${progress.step} of ${progress.steps}${left}`;
  }
  if (job.state === "done") return `${job.width} x ${job.height} px, ${duration(job.ended - job.started)}`;
  return job.message ? `${job.state}: ${job.message}` : job.state;
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

async function move(id, by) {
  const job = jobs.get(id);
  await ask(`/v1/jobs/${id}`, {
    method: "PATCH",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ place: Math.max(1, (job.place ?? 1) + by) }),
  });
  await reload();
}

async function remove(id) {
  const before = jobs.get(id);
  const after = await (await ask(`/v1/jobs/${id}`, { method: "DELETE" })).json();
  if (active(before)) update([after]);
  else forget([id]);
}

async function reload() {
  const told = await (await ask("/v1/jobs")).json();
  const there = new Set(told.jobs.map((job) => job.id));
  forget([...jobs.keys()].filter((id) => !there.has(id)));
  update(told.jobs);
}

// --- results

function settingsOf(job) {
  const { recipe = {}, ...rest } = job.settings;
  return { ...rest, ...recipe };
}

function settingOf(name, value) {
  const [both, term, text] = ["div", "dt", "dd"].map((kind) => document.createElement(kind));
  term.textContent = name.replaceAll("_", " ");
  text.textContent = String(value);
  both.append(term, text);
  return both;
}

const view = { scale: 1, x: 0, y: 0 };

function compare(job) {
  at("compare-name").textContent = job.name;
  at("before").src = `/v1/jobs/${job.id}/image?role=content`;
  at("after").src = `/v1/jobs/${job.id}/image`;
  const told = Object.entries(settingsOf(job)).filter(([, value]) => value !== "" && value !== null);
  at("settings").replaceChildren(...told.map(([name, value]) => settingOf(name, value)));
  Object.assign(view, { scale: 1, x: 0, y: 0 });
  at("compare").showModal();
  place();
  at("split").focus();
}

// Both pictures move as one; the edge stays where the slider is.
function place() {
  const stage = at("stage").getBoundingClientRect();
  view.scale = Math.min(16, Math.max(1, view.scale));
  view.x = Math.min(0, Math.max(stage.width * (1 - view.scale), view.x));
  view.y = Math.min(0, Math.max(stage.height * (1 - view.scale), view.y));
  const edge = (stage.width * at("split").value) / 100;
  for (const image of [at("before"), at("after")]) {
    image.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  }
  at("after").style.clipPath = `inset(0 0 0 ${(edge - view.x) / view.scale}px)`;
  at("edge").style.left = `${edge}px`;
}

function zoom(factor, x, y) {
  const stage = at("stage").getBoundingClientRect();
  const [px, py] = [x ?? stage.width / 2, y ?? stage.height / 2];
  const scale = Math.min(16, Math.max(1, view.scale * factor));
  view.x = px - ((px - view.x) * scale) / view.scale;
  view.y = py - ((py - view.y) * scale) / view.scale;
  view.scale = scale;
  place();
}

const fingers = new Map(); // pointer -> its latest event, of those that are down on the stage

// Two fingers zoom by how far they move apart, about the one that rests.
function pinch(before, after, other) {
  const stage = at("stage").getBoundingClientRect();
  const apart = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY) || 1;
  zoom(apart(after) / apart(before), other.clientX - stage.left, other.clientY - stage.top);
}

function useValues(settings) {
  const recipe = settings.recipe ?? {};
  const size = String(recipe.size ?? settings.size ?? at("size").value);
  if (![...at("size").options].some((option) => option.value === size)) at("size").add(new Option(`${size} px`, size));
  at("size").value = size;
  at("steps").value = recipe.steps ?? at("steps").value;
  const strength = settings.strength ?? strengthOf(recipe.content_weight);
  if (strength !== undefined) at("strength").value = Math.round(strength * 100);
  strengthTold();
  const value = settings.model ? `model:${settings.model}` : `painting:${settings.style}`;
  const choice = document.querySelector(`#looks input[value="${CSS.escape(value)}"]`);
  if (choice) choice.checked = true;
  lookChanged();
  return choice !== null;
}

// The inverse of how the server turns a strength into a weight of the content.
function strengthOf(weight) {
  return weight > 0 ? Math.min(1, Math.max(0, Math.log(weight / 0.15) / Math.log(0.006 / 0.15))) : undefined;
}

async function useSettings(job) {
  const [content, style] = await Promise.all([
    blobOf(job, "content", job.name),
    job.settings.style && !server.paintings.includes(job.settings.style) ? blobOf(job, "style", job.settings.style) : null,
  ]);
  if (style) setStyle(style);
  chosen = [content];
  showChosen();
  if (!useValues(job.settings) && style) document.querySelector('#looks input[value="own"]').checked = true;
  lookChanged();
  at("paint").focus();
  at("ask").scrollIntoView({ block: "start" });
}

async function blobOf(job, role, name) {
  const blob = await (await ask(`/v1/jobs/${job.id}/image?role=${role}`)).blob();
  return new File([blob], name, { type: blob.type });
}

function setStyle(file) {
  styleFile = file;
  showLooks();
  const model = modelOfLook();
  if (!model?.takes_style) document.querySelector('#looks input[value="own"]').checked = true;
  lookChanged();
}

async function settingsFrom(file) {
  const form = new FormData();
  form.append("picture", file, file.name);
  const told = await (await ask("/v1/settings", { method: "POST", body: form })).json();
  useValues(told.settings);
  tell("");
}

// --- beginning

function strengthTold() {
  at("strength-told").textContent = `${at("strength").value} %`;
}

function openDoor() {
  if (!at("door").open) at("door").showModal();
}

async function enter(event) {
  event.preventDefault();
  const body = JSON.stringify({ token: at("token").value });
  const answer = await fetch("/v1/session", { method: "POST", headers: { "content-type": "application/json" }, body });
  at("door-told").textContent = answer.ok ? "" : "this is not the server's token";
  if (!answer.ok) return;
  at("door").close();
  begin();
}

let events = null;

async function begin() {
  try {
    server = await (await ask("/v1/models")).json();
  } catch (error) {
    at("server").textContent = error instanceof Refused ? error.message : "the server cannot be reached";
    if (!(error instanceof Refused)) setTimeout(begin, 2000);
    return;
  }
  at("steps").value ||= server.steps;
  for (const option of [...at("size").options]) if (Number(option.value) > server.max_size) option.remove();
  showLooks();
  listen();
}

function listen() {
  events?.close();
  events = new EventSource("/v1/events");
  let fresh = true;
  events.onopen = () => {
    at("server").textContent = "ready";
    fresh = true;
  };
  events.onerror = () => {
    at("server").textContent = "the server cannot be reached; trying again";
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
  events.onmessage = (event) => {
    const told = JSON.parse(event.data).jobs;
    if (fresh) {
      const there = new Set(told.map((job) => job.id));
      forget([...jobs.keys()].filter((id) => !there.has(id)));
    }
    fresh = false;
    update(told);
  };
  events.addEventListener("removed", (event) => forget(event.data.split(",")));
}

at("ask").addEventListener("submit", paint);
at("enter").addEventListener("submit", enter);
at("content").addEventListener("change", (event) => { addPictures(event.target.files); event.target.value = ""; });
at("style").addEventListener("change", (event) => { if (event.target.files[0]) setStyle(event.target.files[0]); event.target.value = ""; });
at("from").addEventListener("change", (event) => { const file = event.target.files[0]; if (file) run(() => settingsFrom(file)); event.target.value = ""; });
at("looks").addEventListener("change", lookChanged);
at("strength").addEventListener("input", strengthTold);
at("split").addEventListener("input", place);
at("zoom-in").addEventListener("click", () => zoom(1.5));
at("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
at("close").addEventListener("click", () => at("compare").close());
addEventListener("resize", () => { if (at("compare").open) place(); });
addEventListener("paste", (event) => { if (event.clipboardData?.files.length) addPictures(event.clipboardData.files); });
addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
addEventListener("dragleave", () => at("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  const overStyle = event.target.closest?.("#looks");
  if (overStyle && event.dataTransfer.files[0]) setStyle(event.dataTransfer.files[0]);
  else addPictures(event.dataTransfer.files);
});
at("stage").addEventListener("wheel", (event) => {
  event.preventDefault();
  const stage = at("stage").getBoundingClientRect();
  zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.clientX - stage.left, event.clientY - stage.top);
}, { passive: false });
at("stage").addEventListener("pointerdown", (event) => {
  at("stage").setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, event);
});
for (const over of ["pointerup", "pointercancel"]) at("stage").addEventListener(over, (event) => fingers.delete(event.pointerId));
at("stage").addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const other = [...fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
  fingers.set(event.pointerId, event);
  if (other) return pinch(before, event, other);
  view.x += event.clientX - before.clientX;
  view.y += event.clientY - before.clientY;
  place();
});
at("compare").addEventListener("keydown", (event) => {
  if (event.key === "+" || event.key === "=") zoom(1.5);
  if (event.key === "-") zoom(1 / 1.5);
});

begin();
