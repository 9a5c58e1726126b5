# attent-select on NVIDIA GPUs, for the driver, the scheduler and the workers of a cluster.
#
#   docker build --file docker/cuda.Dockerfile --tag attent-select:cuda .
#   docker run --gpus all --ipc host attent-select:cuda doctor
#
# Further packages, such as dask-kubernetes: --build-arg PACKAGES=dask-kubernetes
#
# torch's wheels contain the CUDA libraries; the image adds the compiler that torch.compile needs.
FROM nvidia/cuda:12.8.1-base-ubuntu24.04

ARG PACKAGES=""
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 PATH=/opt/attent/bin:$PATH

# The versions are those of the base image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/attent && useradd --create-home --uid 10001 attent
COPY . /src
RUN pip install --constraint /src/constraints.txt "/src[all,s3,cuda,quantize]" $PACKAGES \
    && rm -r /src
USER 10001
WORKDIR /home/attent
ENTRYPOINT ["attent"]
CMD ["--help"]
