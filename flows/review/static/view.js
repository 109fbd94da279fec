// Draws an item. All texts come from shops and are only ever set as textContent.

const $ = (id) => document.getElementById(id);
const ANSWERS = { normal: "Normal: shows the product", zoomed: "Close-up: shows only a part" };
const ISSUES = { odd_aspect: "odd shape", label_error: "likely label error" };

export function element(name, className, text) {
  const made = document.createElement(name);
  if (className) {
    made.className = className;
  }
  if (text !== undefined) {
    made.textContent = text;
  }
  return made;
}

export function imageUrl(id, size) {
  return `/images/${encodeURIComponent(id)}?size=${size}`;
}

export function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.1) {
    return "< 0.1 %";
  }
  return value > 99.9 && value < 100 ? "> 99.9 %" : `${value < 10 || value > 99 ? value.toFixed(1) : Math.round(value)} %`;
}

export function nameOf(choice) {
  return choice.path ? choice.path.join(" > ") : ANSWERS[choice.answer];
}

export function drawItem(item, { blind }) {
  $("title").textContent = item.title || "(no title)";
  $("breadcrumb").replaceChildren(...item.breadcrumb.map((name) => element("span", "", name)));
  $("price").textContent = item.price || "";
  $("site").textContent = [item.brand, item.site].filter(Boolean).join(" · ");
  $("shop").hidden = !item.page_url;
  if (item.page_url) {
    $("shop").href = item.page_url;
  } else {
    $("shop").removeAttribute("href");
  }
  const isZoom = item.queue === "zoom";
  $("question").textContent = isZoom ? "Does the image show the product?" : "Which category?";
  $("find").hidden = isZoom;
  $("none").hidden = isZoom;
  $("attention").hidden = isZoom || !$("review").dataset.model;
  drawLabel(item, blind || isZoom);
  drawVotes(item.votes || []);
  drawViews(item, 0);
}

function drawLabel(item, hidden) {
  $("label-now").hidden = hidden;
  if (hidden) {
    return;
  }
  const name = item.label.join(" > ");
  const children = [element("span", "muted", "Label: "), element("span", "", name || "none")];
  if (!item.label_known) {
    children.push(" ", element("span", "tag", "not in the taxonomy"));
  }
  if (item.suspected !== null) {
    children.push(" ", element("span", "tag warn", `likely wrong, ${item.suspected.toFixed(2)}`));
  }
  $("label-now").replaceChildren(...children);
}

function drawVotes(votes) {
  $("votes").hidden = !votes.length;
  $("votes").replaceChildren(...votes.map((vote) => {
    const line = element("li");
    line.append(element("strong", "", vote.reviewer), `: ${vote.answer === "none" ? "no category fits" : vote.answer}`);
    return line;
  }));
}

export function drawViews(item, number) {
  const image = item.images[number];
  $("image").src = imageUrl(image.id, "large");
  $("image").alt = item.title ? `Image of ${item.title}` : "Image of the product";
  $("stage-note").hidden = true;
  $("views").hidden = item.images.length < 2;
  $("views").replaceChildren(...item.images.map((each, index) => {
    const button = element("button", "view");
    button.type = "button";
    button.dataset.number = index;
    button.setAttribute("aria-label", `Image ${index + 1} of ${item.images.length}`);
    button.setAttribute("aria-pressed", String(index === number));
    const thumb = element("img");
    thumb.src = imageUrl(each.id, "thumb");
    thumb.alt = "";
    button.append(thumb);
    return button;
  }));
  const tags = image.issues.map((issue) => element("span", "tag warn", `${ISSUES[issue.issue] || issue.issue.replaceAll("_", " ")} ${issue.score.toFixed(2)}`));
  if (item.queue === "categories" && !image.kept) {
    tags.unshift(element("span", "tag", image.reason === "zoomed" ? "discarded as a close-up" : `discarded: ${image.reason}`));
  }
  $("tags").replaceChildren(...tags.flatMap((tag) => [tag, " "]));
}

export function drawChoices(choices, selected, { blind }) {
  $("choices").replaceChildren(...choices.map((choice, index) => {
    const button = element("button", "choice");
    button.type = "button";
    button.dataset.number = index;
    button.append(element("kbd", "", String(index + 1)));
    const name = element("span", "name");
    if (choice.path) {
      name.append(element("span", "last", choice.path.at(-1)));
      if (choice.path.length > 1) {
        name.append(element("span", "before", choice.path.slice(0, -1).join(" > ")));
      }
    } else {
      name.append(element("span", "last", ANSWERS[choice.answer]));
    }
    button.append(name);
    if (!blind && choice.is_label) {
      button.append(element("span", "tag", "label"));
    }
    if (!blind && choice.probability !== null) {
      const meter = element("span", "share", percent(choice.probability));
      const fill = element("span", "fill");
      fill.style.width = `${Math.max(2, 100 * choice.probability)}%`;
      const track = element("span", "track");
      track.append(fill);
      button.append(meter, track);
    }
    const line = element("li");
    line.append(button);
    return line;
  }));
  select(selected);
}

export function select(number) {
  [...$("choices").children].forEach((line, index) => {
    const button = line.firstElementChild;
    button.classList.toggle("selected", index === number);
    if (index === number) {
      button.setAttribute("aria-current", "true");
    } else {
      button.removeAttribute("aria-current");
    }
  });
}

export function drawStrip(items) {
  $("strip").replaceChildren(...items.slice(0, 8).map((item, index) => {
    const button = element("button", "next");
    button.type = "button";
    button.dataset.number = index;
    button.setAttribute("aria-label", item.title || "(no title)");
    if (index === 0) {
      button.setAttribute("aria-current", "true");
    }
    const thumb = element("img");
    thumb.src = imageUrl(item.images[0].id, "thumb");
    thumb.alt = "";
    button.append(thumb);
    const line = element("li");
    line.append(button);
    return line;
  }));
}

export function drawSample(figures) {
  const lines = [["label", "Labels that are right"], ["prediction", "Predictions that are right"]]
    .filter(([what]) => figures[what])
    .map(([what, text]) => {
      const { share, low, high, n } = figures[what];
      const line = element("p");
      line.append(element("strong", "", percent(share)), ` ${text} (95 % interval ${percent(low)} to ${percent(high)}, ${n} answers)`);
      return line;
    });
  if (figures.unsure) {
    lines.push(element("p", "muted", `${figures.unsure} of ${figures.decisions} answers: not sure`));
  }
  $("sample-figures").replaceChildren(...lines);
  $("sample").hidden = !lines.length;
}
