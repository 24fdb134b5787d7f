// A quiz: one group of radio buttons a question, feedback below the picked answer.

function render({ model, el }) {
  const id = `im-quiz-${Math.random().toString(36).slice(2)}`; // the page may hold several
  const root = make("section", { class: "im-panel", "aria-label": model.get("name") });
  const updates = model.get("questions").map((question, q) => {
    const said = make("p", { role: "status" });
    const inputs = question.answers.map((_, a) => {
      const input = make("input", {
        type: "radio", name: `${id}-${q}`, id: `${id}-${q}-${a}`, ...KEEP_KEYS,
      });
      input.addEventListener("change", () => {
        const picked = [...model.get("picked")];
        picked[q] = a;
        model.set("picked", picked);
        model.save_changes();
      });
      return input;
    });
    const rows = question.answers.map(([answer], a) =>
      make("div", {}, make("label", { for: inputs[a].id }, inputs[a], answer)));
    root.append(make("fieldset", { class: "im-question" }, make("legend", {}, `${q + 1}. ${question.text}`), ...rows, said));
    return () => {
      const a = model.get("picked")[q];
      if (a < 0) return;
      inputs[a].checked = true;
      said.textContent = question.answers[a][1];
      said.className = a === question.right ? "im-right" : "im-wrong";
    };
  });
  const update = () => updates.forEach((one) => one());
  update();
  model.on("change:picked", update);
  el.append(root);
  return () => model.off("change:picked", update);
}

export default { render };
