// Swagger UI over the server's own description, from beside this page.
if (window.SwaggerUIBundle) {
  window.SwaggerUIBundle({url: 'openapi.json', dom_id: '#docs', validatorUrl: null, deepLinking: true, docExpansion: 'list'});
} else {
  document.getElementById('docs').textContent = 'Swagger UI is missing. Run: python -m tiler.vendor';
}
