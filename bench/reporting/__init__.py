"""From a study to what people read: an analysis, a document that says it, and its forms (markdown, HTML, LaTeX)."""
