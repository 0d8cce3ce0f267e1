// The layer as it is shown now, in the words of other programs. Plain text; nothing here touches the page.

/** Query that gives tiles the present classes, colours and threshold; empty where they are the model's own. */
export function stylingOf(classes, state) {
  const query = new URLSearchParams();
  const visible = classes.filter(item => item.visible);
  if (visible.length < classes.length) query.set('class', visible.map(item => item.value).join());
  if (state.threshold) query.set('threshold', String(state.threshold / 100));
  if (classes.some(item => item.color !== item.own)) {
    query.set('colormap', JSON.stringify(Object.fromEntries(classes.map(item => [item.value, item.color]))));
  }
  const text = query.toString().replaceAll('%2C', ','); // which needs no escape, and programs differ in theirs
  return text ? `?${text}` : '';
}

/** [{name, text, hint?}] for a layer: `root` is its address without {z}/{x}/{y}, `query` its styling. */
export function snippetsOf({root, query, tilejson, opacity, title}) {
  const {minzoom, maxzoom, bounds: [west, south, east, north], center} = tilejson;
  const tiles = `${root}/{z}/{x}/{y}.png${query}`, json = JSON.stringify;
  const capabilities = `${root}/1.0.0/WMTSCapabilities.xml${query}`;
  const attribution = tilejson.attribution || '', share = opacity / 100, [lon, lat] = center;
  return [
    {name: 'XYZ', text: tiles},
    {name: 'TileJSON', text: `${root}/tilejson.json${query}`},
    {name: 'Leaflet', text: `L.tileLayer(${json(tiles)}, {
  minNativeZoom: ${minzoom}, maxNativeZoom: ${maxzoom}, maxZoom: ${maxzoom + 3}, minZoom: ${minzoom}, opacity: ${share},
  bounds: [[${south}, ${west}], [${north}, ${east}]], attribution: ${json(attribution)},
}).addTo(map);`},
    {name: 'OpenLayers', text: `map.addLayer(new ol.layer.Tile({
  extent: ol.proj.transformExtent([${west}, ${south}, ${east}, ${north}], 'EPSG:4326', 'EPSG:3857'),
  minZoom: ${minzoom - 0.5}, opacity: ${share},
  source: new ol.source.XYZ({
    url: ${json(tiles)},
    minZoom: ${minzoom}, maxZoom: ${maxzoom}, interpolate: false, crossOrigin: 'anonymous', attributions: ${json(attribution)},
  }),
}));`},
    {name: 'MapLibre', text: `map.addSource('prediction', {
  type: 'raster', tiles: [${json(tiles)}], tileSize: 256,
  minzoom: ${minzoom}, maxzoom: ${maxzoom}, bounds: [${west}, ${south}, ${east}, ${north}], attribution: ${json(attribution)},
});
map.addLayer({id: 'prediction', type: 'raster', source: 'prediction',
  paint: {'raster-opacity': ${share}, 'raster-resampling': 'nearest'}});`},
    {name: 'QGIS (XYZ)', hint: 'Layer > Add raster layer from this URI, or in the Python console', text:
      `type=xyz&url=${encodeURIComponent(tiles)}&zmin=${minzoom}&zmax=${maxzoom}`},
    {name: 'QGIS (WMTS)', hint: 'Layer > Add WMS/WMTS layer > New: this address', text: capabilities},
    {name: 'ArcGIS', hint: query
      ? 'ArcGIS drops queries of WMTS addresses, and with them the styling: take the tiles as a WebTileLayer.'
      : 'Add data from path: WMTS server', text: query ? tiles.replace('{z}', '{level}').replace('{x}', '{col}').replace('{y}', '{row}') : capabilities},
    {name: 'GDAL', hint: 'Save as prediction.xml, then: gdal_translate prediction.xml out.tif -projwin …', text: gdalOf(tiles, tilejson)},
    {name: 'Notebook (leafmap)', text: `import leafmap.foliumap as leafmap

m = leafmap.Map(center=[${lat}, ${lon}], zoom=${maxzoom - 1})
m.add_tile_layer(${json(tiles)}, name=${json(title)}, attribution=${json(attribution || title)}, opacity=${share})
m`},
    {name: 'Notebook (folium)', text: `import folium

m = folium.Map(location=[${lat}, ${lon}], zoom_start=${maxzoom - 1}, max_zoom=${maxzoom + 3})
folium.TileLayer(${json(tiles)}, attr=${json(attribution || title)}, name=${json(title)}, overlay=True, opacity=${share},
                 max_native_zoom=${maxzoom}, min_zoom=${minzoom}, max_zoom=${maxzoom + 3}).add_to(m)
m`},
  ];
}

function gdalOf(tiles, {maxzoom, bounds: [west, south, east, north]}) {
  const half = 20037508.342789244, size = 2 ** maxzoom;
  const x = lon => (lon + 180) / 360 * size;
  const y = lat => (0.5 - Math.asinh(Math.tan(lat * Math.PI / 180)) / (2 * Math.PI)) * size;
  const [left, right, top, bottom] = [Math.floor(x(west)), Math.ceil(x(east)), Math.floor(y(north)), Math.ceil(y(south))];
  const side = 2 * half / size;
  const url = tiles.replaceAll('&', '&amp;').replace('{z}', '${z}').replace('{x}', '${x}').replace('{y}', '${y}');
  return `<GDAL_WMS>
  <Service name="TMS"><ServerUrl>${url}</ServerUrl></Service>
  <DataWindow>
    <UpperLeftX>${left * side - half}</UpperLeftX><UpperLeftY>${half - top * side}</UpperLeftY>
    <LowerRightX>${right * side - half}</LowerRightX><LowerRightY>${half - bottom * side}</LowerRightY>
    <TileLevel>${maxzoom}</TileLevel><TileX>${left}</TileX><TileY>${top}</TileY>
    <SizeX>${256 * (right - left)}</SizeX><SizeY>${256 * (bottom - top)}</SizeY><YOrigin>top</YOrigin>
  </DataWindow>
  <Projection>EPSG:3857</Projection><BlockSizeX>256</BlockSizeX><BlockSizeY>256</BlockSizeY><BandsCount>4</BandsCount>
  <MaxConnections>6</MaxConnections><ZeroBlockHttpCodes>204,404</ZeroBlockHttpCodes>
</GDAL_WMS>`;
}
