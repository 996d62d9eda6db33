// Before the first paint, so that nobody sees the other theme flash. Without a choice the system's own is taken.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // storage is closed to this page: the system's theme
}
