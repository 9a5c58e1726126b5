# attent-select on CPUs, for the driver, the scheduler and the workers of a cluster.
#
#   docker build --file docker/cpu.Dockerfile --tag attent-select:cpu .
#
# The default wheels of torch on Linux contain CUDA. To leave it out, pass the index of torch's CPU
# wheels: --build-arg PIP_EXTRA_INDEX_URL=…
# Further packages, such as dask-kubernetes: --build-arg PACKAGES=dask-kubernetes
FROM python:3.12-slim

ARG PIP_EXTRA_INDEX_URL=""
ARG PACKAGES=""
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

RUN useradd --create-home --uid 10001 attent
COPY . /src
RUN pip install --constraint /src/constraints.txt "/src[all,s3]" $PACKAGES \
    && rm -r /src
USER 10001
WORKDIR /home/attent
ENTRYPOINT ["attent"]
CMD ["--help"]
