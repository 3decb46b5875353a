# The three images of Midstream: `--target engine`, `--target operator`, `--target engine-lb`.
#
# Each is the base image and one folder, /opt/midstream: a virtual environment of pinned, hash-checked wheels, and the
# packages that run in it. Nothing is compiled, nothing is written at run time, and no shell is needed to start.

ARG BASE=python:3.13-slim-trixie

# ---- what all three are built with ------------------------------------------------------------------------------
FROM ${BASE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
RUN python -m venv --without-pip /opt/midstream
# Modules are compiled here, as nothing can be written where they run, and bound to no time stamp: the same sources
# give the same layer.
ENV INSTALL="pip --python /opt/midstream/bin/python install --require-hashes --no-deps --only-binary :all: --no-compile"
ENV COMPILE="python -m compileall -q --invalidation-mode unchecked-hash"

# ---- libraries: these layers change only with the pins ------------------------------------------------------------
FROM builder AS engine-libraries
COPY requirements/engine.txt /tmp/
# Without the tools, tests and headers that come with a library and that neither serving nor a Python model of numpy and
# pandas imports. Flight is a network protocol of Arrow's.
RUN ${INSTALL} -r /tmp/engine.txt \
 && cd /opt/midstream/lib/python3*/site-packages \
 && rm -rf onnxruntime/quantization onnxruntime/tools onnxruntime/transformers onnxruntime/datasets \
 && rm -rf pyarrow/include pyarrow/src pyarrow/*flight* \
 && find numpy pandas pyarrow -type d -name tests -prune -exec rm -rf {} + \
 && ${COMPILE} .

FROM builder AS operator-libraries
COPY requirements/operator.txt /tmp/
RUN ${INSTALL} -r /tmp/operator.txt \
 && cd /opt/midstream/lib/python3*/site-packages \
 && ${COMPILE} .

FROM builder AS engine-lb-libraries
COPY requirements/engine-lb.txt /tmp/
RUN ${INSTALL} -r /tmp/engine-lb.txt

# ---- the packages themselves --------------------------------------------------------------------------------------
FROM builder AS engine-packages
COPY crds artifacts engine /packages/
RUN chmod -R a+rX /packages && ${COMPILE} /packages

FROM builder AS operator-packages
COPY crds artifacts operator /packages/
RUN chmod -R a+rX /packages && ${COMPILE} /packages

FROM builder AS engine-lb-packages
COPY loadbalancer /packages/
RUN chmod -R a+rX /packages && ${COMPILE} /packages

# ---- the images ---------------------------------------------------------------------------------------------------
FROM ${BASE} AS image
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.vendor="Midstream" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/midstream/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/midstream/packages \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    USER=midstream
COPY LICENSE /opt/midstream/
WORKDIR /opt/midstream
# A number, so that Kubernetes can see that it is not root. It is in no passwd file, and kopf asks for the user's name.
USER 65532:65532

FROM image AS operator
LABEL org.opencontainers.image.title="midstream-operator" \
      org.opencontainers.image.description="Reconciles Midstream's Pipelines"
COPY --from=operator-libraries /opt/midstream /opt/midstream
COPY --from=operator-packages /packages /opt/midstream/packages
EXPOSE 8080
ENTRYPOINT ["python", "-m", "midstream_operator"]

FROM image AS engine-lb
LABEL org.opencontainers.image.title="midstream-engine-lb" \
      org.opencontainers.image.description="Envoy as a pipeline's load balancer, with its launcher"
COPY --from=engine-lb-libraries /opt/midstream /opt/midstream
COPY --from=engine-lb-packages /packages /opt/midstream/packages
EXPOSE 29502 29504
ENTRYPOINT ["python", "-m", "midstream_lb"]

FROM image AS engine
LABEL org.opencontainers.image.title="midstream-engine" \
      org.opencontainers.image.description="Serves a pipeline and swaps its models while it serves"
COPY --from=engine-libraries /opt/midstream /opt/midstream
COPY --from=engine-packages /packages /opt/midstream/packages
# Before the first import of onnxruntime: nothing phones home.
ENV ORT_DISABLE_TELEMETRY=1 GLIBC_TUNABLES=glibc.malloc.hugetlb=1
EXPOSE 8080 8081
ENTRYPOINT ["python", "-m", "midstream_engine"]
