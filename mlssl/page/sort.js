// Tables with the class `sortable`: a click on a heading sorts the rows, text in the field above filters them.
document.querySelectorAll("table.sortable").forEach(table => {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, i) => row.cells[i].dataset.key === undefined ? NaN : Number(row.cells[i].dataset.key);
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1;
      [...body.rows].sort((a, b) => {
        const x = key(a, i), y = key(b, i);
        if (isNaN(x) && isNaN(y))
          return sign * a.cells[i].textContent.localeCompare(b.cells[i].textContent, undefined, {numeric: true});
        if (isNaN(x) || isNaN(y)) return isNaN(x) ? 1 : -1;  // cells without a number stay at the end
        return sign * (x - y);
      }).forEach(row => body.append(row));
    });
  });
  const tools = table.closest("section, article, details").querySelector(".tools");
  if (!tools) return;
  tools.hidden = false;
  const field = tools.querySelector("input[type=search]"), seeds = tools.querySelector("input[type=checkbox]");
  if (field) field.addEventListener("input", () => {
    const text = field.value.toLowerCase();
    [...body.rows].forEach(row => { row.hidden = !`${row.textContent} ${row.cells[0].dataset.name || ""}`.toLowerCase().includes(text); });
  });
  if (seeds) {
    const show = () => table.classList.toggle("hide-seeds", !seeds.checked);
    seeds.addEventListener("change", show);
    show();
  }
});
