# capfilt in a container: `docker build -t capfilt .` then
# `docker run --rm -u "$(id -u)" -v "$PWD:/data" capfilt run quickstart`
#
# GPU: docker build --build-arg TORCH_INDEX=<index of torch wheels for your CUDA> --build-arg FAISS=faiss-gpu .
# The torch and faiss-gpu wheels bring their own CUDA libraries, so the base image stays the same; the host needs the driver
# and the NVIDIA container toolkit.
FROM python:3.11.14-slim-bookworm

# Empty: the default index, whose Linux wheels come with CUDA. A CPU index makes an image some gigabytes smaller.
ARG TORCH_INDEX=""
# faiss-cpu | faiss-gpu (CUDA 12) | faiss-gpu-cuvs (CUDA 13); exactly one, they install the same package.
ARG FAISS="faiss-cpu"

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 NO_ALBUMENTATIONS_UPDATE=1
# In the mounted folder: whoever runs it may write there, and what was fetched outlives the container.
ENV HF_HOME=/data/.cache/huggingface

RUN useradd --create-home --uid 1000 capfilt
WORKDIR /opt/capfilt

# Dependencies in a layer of their own: they change seldom and are large.
COPY constraints.txt ./
RUN grep '^torch==' constraints.txt | xargs pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
# faiss is pinned for the CPU only; its GPU wheels number their releases differently.
COPY pyproject.toml README.md LICENSE ./
COPY capfilt ./capfilt
COPY pipelines ./pipelines
COPY models ./models
RUN pip install -c constraints.txt ".[${FAISS}]"

USER capfilt
WORKDIR /data
ENTRYPOINT ["capfilt"]
CMD ["--help"]
