# docker build --target cpu -t titiler-inference:cpu .
# docker run -p 8000:8000 -v /data:/data:ro titiler-inference:cpu /data/scene.tif --model /data/model
# The default torch wheel for Linux carries CUDA. For a small CPU image pass the index that has CPU wheels:
#   --build-arg PIP_EXTRA_INDEX_URL=...
ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
WORKDIR /src
COPY . .
# Without npm in this stage the build hook brings its own, for this stage only.
RUN pip wheel --no-cache-dir --no-deps -c constraints.txt -w /wheels .

FROM python:${PYTHON_VERSION}-slim AS base
# rasterio's wheel takes libexpat from the system.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libexpat1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 tiler
# Few arenas keep glibc from holding on to the memory of large windows.
ENV MALLOC_ARENA_MAX=2 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# A running GDAL read cannot be cancelled, so it gets limits here, where every thread sees them.
# GDAL_NUM_THREADS stays unset: with it, failed range requests gave wrong pixels before GDAL 3.11.
ENV GDAL_HTTP_TIMEOUT=30 \
    GDAL_HTTP_CONNECTTIMEOUT=5 \
    GDAL_HTTP_MAX_RETRY=3 \
    GDAL_HTTP_RETRY_DELAY=0.5 \
    GDAL_HTTP_MERGE_CONSECUTIVE_RANGES=YES \
    GDAL_DISABLE_READDIR_ON_OPEN=EMPTY_DIR \
    GDAL_INGESTED_BYTES_AT_OPEN=32768 \
    GDAL_CACHEMAX=200 \
    VSI_CACHE=TRUE \
    VSI_CACHE_SIZE=5000000 \
    RIO_TILER_MAX_THREADS=1
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/constraints.txt

FROM base AS serve
ARG PIP_EXTRA_INDEX_URL
# Others: redis (a shared cache), vector (exports as polygons), dask (exports on many machines), openvino, remote.
ARG EXTRAS=torch
RUN pip install --no-cache-dir -c /wheels/constraints.txt "$(ls /wheels/*.whl)[${EXTRAS}]" && rm -rf /wheels
USER tiler
WORKDIR /home/tiler
# A new volume here belongs to whom the folder belongs to.
RUN mkdir state
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# One process holds the device, the cells and the queue; more of them would each keep their own.
ENTRYPOINT ["tiler", "serve", "--host", "0.0.0.0", "--port", "8000"]

FROM serve AS cuda
# torch's wheel has the CUDA libraries; only the driver comes from the host: docker run --gpus all
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM serve AS cpu
# Last, and so the default target.
ENV CUDA_VISIBLE_DEVICES=
