# collapse with torch for the CPU, at the versions that the tests ran with:
#   docker build -t collapse . && docker run --rm -v "$PWD:/models:ro" collapse scan model.safetensors
FROM python:3.11-slim AS build
# torch without CUDA, a tenth of the size; the same version, so that constraints.txt holds
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/collapse
ENV PATH=/opt/collapse/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
RUN version=$(sed -n 's/^torch==//p' constraints.txt) \
    && pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" "torch==$version"
COPY pyproject.toml README.md LICENSE ./
COPY collapse_cli ./collapse_cli
RUN pip install --no-cache-dir -c constraints.txt .

FROM python:3.11-slim
COPY --from=build /opt/collapse /opt/collapse
ENV PATH=/opt/collapse/bin:$PATH PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
RUN useradd --create-home --uid 1000 collapse
USER collapse
WORKDIR /models
ENTRYPOINT ["collapse"]
CMD ["--help"]
