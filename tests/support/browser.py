"""A Chromium of the system, for tests of what people see."""

from __future__ import annotations

import shutil

import pytest

_NAMES = ("chromium", "chromium-headless-shell", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, _NAMES)), None)
OPTIONS = ("--no-sandbox",)  # root may not use it, and the pages are our own

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")

# contrast of each text with the background behind it, as WCAG 2 defines it, where it is below 4.5
LOW_CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const over = (colour, below) => {
    canvas.fillStyle = below;
    canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;
  const light = (rgb) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    const chain = [];
    for (let at = node; at; at = at.parentElement) chain.unshift(getComputedStyle(at).backgroundColor);
    return chain.reduce((below, colour) => css(over(colour, below)), "white");
  };
  const low = [];
  let checked = 0;
  for (const node of document.querySelectorAll("body *")) {
    const has = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!(has || node.value) || !node.checkVisibility() || node.disabled) continue;
    const back = behind(node);
    const two = [over(getComputedStyle(node).color, back), over(back, back)].map(light).sort();
    const contrast = (Math.max(...two) + 0.05) / (Math.min(...two) + 0.05);
    checked += 1;
    if (contrast < 4.5) low.push(`${contrast.toFixed(2)} ${node.outerHTML.slice(0, 60)}`);
  }
  return { checked, low };
}"""
