// The page of `atlas serve`: collects images, asks the service, shows the answer, sends feedback.
// Texts from the service and from files are shown with textContent only.

const main = document.querySelector("main");
const element = (id) => document.getElementById(id);
const maxImages = Number(main.dataset.maxImages);
const hasFeedback = main.dataset.feedback === "yes";
const ALTERNATIVES = 5;
const SEPARATOR = " > ";

let images = []; // {file, url, fault}
let shown = 0; // number of the image whose attention is shown
let result = null; // of the service
let current = null; // AbortController of the requests in progress

// ---- images

function add(files) {
  const found = [...files].filter((file) => file.type === "" || file.type.startsWith("image/"));
  if (found.length < files.length) say("Only images can be categorised.");
  const accepted = found.slice(0, maxImages - images.length);
  images.push(...accepted.map((file) => ({ file, url: URL.createObjectURL(file), fault: "" })));
  if (accepted.length) update();
  if (accepted.length < found.length) say(`At most ${maxImages} images can be categorised together.`);
}

function remove(index) {
  URL.revokeObjectURL(images[index].url);
  images.splice(index, 1);
  update();
  (element("thumbnails").querySelectorAll(".remove")[Math.min(index, images.length - 1)] ?? element("choose")).focus();
}

function showThumbnails() {
  element("thumbnails").replaceChildren(
    ...images.map((image, index) => {
      const item = document.createElement("li");
      const pick = button(`Show image ${index + 1}`, "pick", () => {
        shown = index;
        showThumbnails();
        showLevels();
      });
      pick.setAttribute("aria-pressed", String(index === shown && images.length > 1));
      const picture = document.createElement("img");
      picture.src = image.url;
      picture.alt = "";
      picture.addEventListener("error", () => picture.remove()); // no image that the browser can show
      pick.replaceChildren(picture);
      const cross = button(`Remove image ${index + 1}`, "remove", () => remove(index));
      cross.textContent = "×";
      item.append(pick, cross);
      if (image.fault) item.append(text("span", "fault", image.fault));
      return item;
    }),
  );
  element("thumbnails").hidden = !images.length;
  element("drop").classList.toggle("compact", images.length > 0);
  element("choose").textContent = images.length ? "Add images" : "Choose images";
  element("clear").hidden = !images.length && !title();
}

// ---- requests

const title = () => element("title")?.value.trim() ?? "";

async function update() {
  shown = Math.min(shown, Math.max(0, images.length - 1));
  for (const image of images) image.fault = "";
  showThumbnails();
  current?.abort();
  closeFeedback();
  if (!images.length && !title()) {
    result = null;
    element("answer").hidden = element("problem").hidden = true;
    busy(false);
    say("Add an image to see its category path.");
    return;
  }
  const control = (current = new AbortController());
  busy(true);
  say("Predicting ...");
  try {
    const [found, decision] = await Promise.all([
      predict({ top: ALTERNATIVES, explain: images.length > 0 }, control.signal),
      decide(control.signal).catch((error) => error),
    ]);
    if (control === current) showAnswer(found, decision);
  } catch (error) {
    if (control === current) showProblem(error);
  } finally {
    if (control === current) busy(false);
  }
}

async function decide(signal) {
  const accuracy = element("accuracy")?.value; // missing if the model guarantees none
  return accuracy ? predict({ accuracy: Number(accuracy) }, signal) : null;
}

async function predict(options, signal) {
  if (!images.length) return post("/v1/predict", { items: [{ title: title() }], ...options }, signal);
  const form = new FormData();
  for (const image of images) form.append("images", image.file, image.file.name || "image");
  form.append("product", String(images.length > 1));
  if (title()) form.append("title", title());
  for (const [name, value] of Object.entries(options)) form.append(name, String(value));
  return answer(await fetch("/v1/predict/files", { method: "POST", body: form, signal }));
}

async function post(path, content, signal) {
  const headers = { "Content-Type": "application/json" };
  return answer(await fetch(path, { method: "POST", headers, body: JSON.stringify(content), signal }));
}

async function answer(response) {
  const content = await response.json().catch(() => ({}));
  if (response.ok) return content;
  const reasons = [...new Set((content.errors ?? []).map((each) => each.got))]; // of the items
  const reason = content.type?.endsWith(":nothing-to-predict") ? reasons.join("; ") : content.detail;
  const error = new Error(reason ?? `The service answered with status ${response.status}.`);
  error.problem = content;
  throw error;
}

// ---- answer

function showAnswer(found, decision) {
  result = found.results[0];
  result.model = found.model;
  element("model-name").textContent = found.model.name;
  element("model-version").textContent = found.model.version;
  result.images.forEach((image, index) => {
    if (image.status !== "ok" && images[index]) images[index].fault = `Not used: ${image.status.replaceAll("_", " ")}`;
  });
  const usable = result.images.findIndex((image) => image.status === "ok");
  if (result.images[shown]?.status !== "ok" && usable >= 0) shown = usable;
  showThumbnails();
  showDecision(decision);
  showLevels();
  element("attention-controls").hidden = !result.attention?.length;
  element("alternatives").replaceChildren(
    ...result.predictions.slice(1).map((each) => {
      const item = document.createElement("li");
      item.append(text("span", "path", each.path.join(SEPARATOR)), bar(each.probability));
      return item;
    }),
  );
  element("problem").hidden = true;
  element("answer").hidden = false;
  if (hasFeedback) element("feedback").hidden = !images.length; // a review needs an image
  const best = result.predictions[0];
  const used = result.images.filter((image) => image.status === "ok").length;
  const count = used < images.length ? `${used} of ${images.length} images` : `${used} images together`;
  const from = [...(result.product ? [count] : images.length ? ["the image"] : [])];
  if (result.modality !== "image") from.push(images.length ? "the title" : "the title alone");
  const note = from.length > 1 || images.length !== 1 ? `, from ${from.join(" and ")}` : "";
  const disagree = result.disagree ? " The images disagree: taken alone, they have different categories." : "";
  const ignored = title() && result.modality === "image" ? " The title was not used." : "";
  say(`${percent(best.probability)} ${best.path.join(SEPARATOR)}${note}.${disagree}${ignored}`);
}

function showDecision(decision) {
  const box = element("decision");
  box.hidden = !decision;
  if (!decision || decision.name === "AbortError") return;
  const found = decision instanceof Error ? null : decision.results[0];
  if (!found) {
    box.className = "notice warning";
    box.replaceChildren(text("strong", "", "No guarantee"), text("span", "", decision.message));
    return;
  }
  const { path, band } = found.predictions[0];
  const accuracy = percent(found.guaranteed_accuracy);
  const [kind, heading, line] = {
    accept: ["good", "Accept", `Predictions like this one are right in at least ${accuracy} of the cases.`],
    review: ["warning", "Review", `At ${accuracy} accuracy, only this is certain enough: ${path.join(SEPARATOR)}.`],
    no_answer: ["bad", "No answer", `No level is certain enough for ${accuracy} accuracy. Ask a person.`],
  }[band];
  box.className = `notice ${kind}`;
  box.replaceChildren(text("strong", "", heading), text("span", "", line));
}

function showLevels() {
  if (!result?.predictions.length) return;
  const best = result.predictions[0];
  const drawn = result.attention?.find((each) => each.image === shown);
  const visible = element("attention").checked;
  element("levels").replaceChildren(
    ...best.path.map((name, index) => {
      const item = document.createElement("li");
      item.append(text("span", "name", name));
      const level = drawn?.levels[index];
      if (visible && (level || images[shown])) {
        const picture = document.createElement("img");
        picture.className = "overlay";
        picture.src = level ? `data:${drawn.media_type};base64,${level.overlay}` : images[shown].url;
        picture.alt = level ? `Attention for ${name}` : "";
        item.append(picture);
      }
      item.append(bar(best.levels[index]));
      return item;
    }),
  );
}

function showProblem(error) {
  if (error.name === "AbortError") return;
  result = null;
  element("answer").hidden = true;
  element("problem").hidden = false;
  element("problem").replaceChildren(
    text("strong", "", error.problem ? "This could not be predicted" : "The service does not answer"),
    text("span", "", error.message),
  );
  say("");
}

// ---- feedback

function closeFeedback(message = "", bad = false) {
  if (!hasFeedback) return;
  element("correction").hidden = true;
  element("wrong").setAttribute("aria-expanded", "false");
  element("feedback-buttons").hidden = message !== "" && !bad;
  element("thanks").textContent = message;
  element("thanks").classList.toggle("bad", bad);
}

async function sendFeedback(verdict, category) {
  const best = result.predictions[0];
  const reviewer = element("reviewer").value.trim();
  localStorage.setItem("atlas-reviewer", reviewer);
  const content = { verdict, predicted: best.path, probability: best.probability };
  if (reviewer) content.reviewer = reviewer;
  if (category) content.category = category.split(SEPARATOR);
  content.image = { bytes: await base64(images[shown].file) };
  try {
    const stored = await post("/v1/feedback", content);
    closeFeedback(`Thank you. Stored for the review, as ${stored.reviewer}.`);
  } catch (error) {
    closeFeedback(error.message, true);
    if (verdict === "wrong") element("correction").hidden = false;
  }
}

async function base64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let binary = "";
  for (let start = 0; start < bytes.length; start += 32768) {
    binary += String.fromCharCode(...bytes.subarray(start, start + 32768));
  }
  return btoa(binary);
}

async function listCategories() {
  const typed = element("category").value;
  const query = new URLSearchParams({ q: typed.replaceAll(">", " "), limit: 30 });
  const found = await answer(await fetch(`/v1/categories?${query}`)).catch(() => ({ matches: [] }));
  if (typed !== element("category").value) return;
  const options = found.matches.map((path) => {
    const option = document.createElement("option");
    option.value = path.join(SEPARATOR);
    return option;
  });
  element("categories").replaceChildren(...options);
}

// ---- small parts

function text(tag, kind, content) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  made.textContent = content;
  return made;
}

function button(label, kind, action) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = kind;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", action);
  return made;
}

function bar(probability) {
  const made = document.createElement("div");
  made.className = "probability";
  const track = document.createElement("div");
  track.className = "track";
  track.setAttribute("aria-hidden", "true");
  const fill = document.createElement("div");
  fill.className = "fill";
  fill.style.width = `${Math.round(100 * probability)}%`;
  track.append(fill);
  made.append(track, text("span", "value", percent(probability)));
  return made;
}

function percent(share) {
  if (share > 0.9995) return "100 %";
  return share >= 0.1 || share === 0 ? `${Math.round(100 * share)} %` : `${(100 * share).toFixed(1)} %`;
}

function busy(working) {
  element("result").setAttribute("aria-busy", String(working));
  if (hasFeedback) element("right").disabled = element("wrong").disabled = working; // it would be about the next result
}

function say(line) {
  element("status").textContent = line;
}

function debounced(action, wait) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, wait);
  };
}

// ---- events

element("choose").addEventListener("click", () => element("files").click());
element("photograph").addEventListener("click", () => element("camera").click());
for (const id of ["files", "camera"]) {
  element(id).addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = ""; // the same file may be chosen again
  });
}
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  element("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) element("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  element("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) {
    event.preventDefault();
    add(event.clipboardData.files);
  }
});
element("clear").addEventListener("click", () => {
  for (const image of images) URL.revokeObjectURL(image.url);
  images = [];
  if (element("title")) element("title").value = "";
  update();
  element("choose").focus();
});
element("options").addEventListener("submit", (event) => event.preventDefault());
const updateSoon = debounced(update, 400);
element("title")?.addEventListener("input", () => {
  current?.abort(); // its answer would be about the title before
  current = null;
  busy(true);
  updateSoon();
});
element("accuracy")?.addEventListener("change", update);
element("attention").addEventListener("change", showLevels);
if (hasFeedback) {
  element("reviewer").value = localStorage.getItem("atlas-reviewer") ?? "";
  element("right").addEventListener("click", () => sendFeedback("right"));
  element("wrong").addEventListener("click", () => {
    const opening = element("correction").hidden;
    element("correction").hidden = !opening;
    element("wrong").setAttribute("aria-expanded", String(opening));
    if (opening) {
      element("category").value = "";
      listCategories();
      element("category").focus();
    }
  });
  element("category").addEventListener("input", debounced(listCategories, 150));
  element("correction").addEventListener("submit", (event) => {
    event.preventDefault();
    sendFeedback("wrong", element("category").value.trim());
  });
}
