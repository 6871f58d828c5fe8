// The few things this page does to the document. Styles are set through the CSSOM only: the page's policy
// (`default-src 'self'`) forbids style attributes.

type Child = Node | string;

export function element<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  className: string,
  ...children: Child[]
): HTMLElementTagNameMap[Tag] {
  const node = document.createElement(tag);
  if (className !== "") node.className = className;
  node.append(...children);
  return node;
}

/** An element that `index.html` promises. */
export function byId<T extends HTMLElement>(id: string, kind: new () => T): T {
  const node = document.getElementById(id);
  if (!(node instanceof kind)) throw new Error(`index.html has no ${kind.name} with the id ${id}`);
  return node;
}

/** Writes only what changed, so that a screen reader and a selection are left alone. */
export function setText(node: Node, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

export function setOptions(select: HTMLSelectElement, options: { value: string; label: string }[], value: string): void {
  const known = Array.from(select.options, (option) => `${option.value}\n${option.text}`);
  const wanted = options.map((option) => `${option.value}\n${option.label}`);
  if (known.join() !== wanted.join()) {
    select.replaceChildren(...options.map(({ value, label }) => new Option(label, value)));
  }
  if (select.value !== value) select.value = value;
}
