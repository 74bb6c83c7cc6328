"use strict";
for (const section of document.querySelectorAll("[data-images]")) {
  const slider = section.querySelector("input.which");
  const output = section.querySelector("output");
  const examples = [...section.querySelectorAll("[data-example]")];
  const show = () => {
    examples.forEach((example, number) => { example.hidden = number !== slider.value - 1; });
    output.value = `${slider.value} of ${examples.length}`;
  };
  slider.addEventListener("input", show);
  const choose = (box) => {
    for (const block of section.querySelectorAll(".task")) {
      if (block.dataset.task === box.dataset.task) block.hidden = !box.checked;
    }
  };
  for (const box of section.querySelectorAll("input[role=switch]")) {
    box.addEventListener("change", () => choose(box));
    choose(box);  // browsers keep the state of a form over a reload
  }
  section.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  show();
}
// What is folded away is printed too.
const opened = new Set();
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details:not([open])")) { fold.open = true; opened.add(fold); }
});
addEventListener("afterprint", () => {
  for (const fold of opened) fold.open = false;
  opened.clear();
});
