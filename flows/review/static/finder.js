// Type-to-find: a combobox whose suggestions come from the server (WAI-ARIA Authoring Practices, "Combobox").

import { request } from "./outbox.js";

const PAUSE_MS = 40;

export class Finder {
  // onChosen(choice), onLeft()
  constructor(handlers) {
    this.handlers = handlers;
    this.input = document.getElementById("query");
    this.list = document.getElementById("found");
    this.nothing = document.getElementById("none-found");
    this.choices = [];
    this.active = -1;
    this.asked = "";
    this.input.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.show([]);
      this.timer = setTimeout(() => this.search(), PAUSE_MS);
    });
    this.input.addEventListener("keydown", (event) => this.onKey(event));
    this.list.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus
    this.list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) {
        this.choose(Number(option.dataset.number));
      }
    });
  }

  focus() {
    this.input.focus();
    this.input.select();
  }

  clear() {
    clearTimeout(this.timer);
    this.asked = "";
    this.input.value = "";
    this.show([]);
  }

  async search() {
    const query = this.input.value.trim();
    this.asked = query;
    const found = query ? await request(`/api/find?q=${encodeURIComponent(query.slice(0, 200))}`).catch(() => []) : [];
    if (this.asked === query && this.input.value.trim() === query) {
      this.show(found);
      this.nothing.hidden = !query || found.length > 0;
    }
  }

  show(choices) {
    this.choices = choices;
    this.nothing.hidden = true;
    this.list.replaceChildren(...choices.map((choice, number) => {
      const option = document.createElement("li");
      option.setAttribute("role", "option");
      option.id = `found-${number}`;
      option.dataset.number = number;
      const last = document.createElement("strong");
      last.textContent = choice.path.at(-1);
      const before = document.createElement("span");
      before.className = "muted";
      before.textContent = choice.path.slice(0, -1).join(" > ");
      option.append(last, " ", before);
      return option;
    }));
    this.list.hidden = !choices.length;
    this.input.setAttribute("aria-expanded", String(choices.length > 0));
    this.activate(choices.length ? 0 : -1);
  }

  activate(number) {
    this.active = number;
    [...this.list.children].forEach((option, index) => option.setAttribute("aria-selected", String(index === number)));
    if (number < 0) {
      this.input.removeAttribute("aria-activedescendant");
    } else {
      this.input.setAttribute("aria-activedescendant", `found-${number}`);
      this.list.children[number].scrollIntoView({ block: "nearest" });
    }
  }

  choose(number) {
    const choice = this.choices[number];
    if (choice) {
      this.clear();
      this.input.blur();
      this.handlers.onChosen(choice);
    }
  }

  onKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && this.choices.length) {
      event.preventDefault();
      this.activate((this.active + step + this.choices.length) % this.choices.length);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (!event.repeat) {
        this.choose(this.active);
      }
    } else if (event.key === "Escape") {
      event.preventDefault();
      this.clear();
      this.handlers.onLeft();
    }
  }
}
