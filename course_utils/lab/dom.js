// Shared by all widgets of the course; put in front of each one's own module.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = ["svg", "g", "path", "line", "text", "circle", "rect", "title"];
const KEEP_KEYS = { "data-lm-suppress-shortcuts": "true" }; // else JupyterLab takes the keys

function make(tag, attributes = {}, ...children) {
  const isSvg = SVG_TAGS.includes(tag);
  const node = isSvg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
