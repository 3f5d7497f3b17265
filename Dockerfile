# neox-prefix on libtorch, for `neox-prefix serve` and everything else of the command line:
#
#   docker build -t neox-prefix .                             # CPU
#   docker build -t neox-prefix:cuda --build-arg CUDA=13.0 .  # CUDA: run with --gpus all (x86-64)
#   docker run --rm -v "$PWD/models:/models" neox-prefix generate --model /models/ja-neox --prompt 今日は
#
# The first stage makes the packages that npm publishes, the second installs them as any project would and gets libtorch,
# the last holds nothing else.
ARG NODE=22-bookworm-slim

FROM node:${NODE} AS packages
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates cmake g++ ninja-build \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN npm run setup && npm run prebuilds && npm run packages

FROM node:${NODE} AS install
ARG CUDA=
WORKDIR /app
COPY --from=packages /src/packages/*.tgz /tmp/packages/
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
RUN npm init --yes && npm install --omit=dev --no-audit --no-fund /tmp/packages/*.tgz
# What only a build needs is not run with.
RUN npx neox-prefix fetch-libtorch --destination /opt/libtorch ${CUDA:+--cuda "$CUDA"} \
    && rm -rf /opt/libtorch/include /opt/libtorch/share

FROM node:${NODE}
ENV NODE_ENV=production NEOX_PREFIX_LIBTORCH=/opt/libtorch
WORKDIR /app
COPY --from=install /opt/libtorch /opt/libtorch
COPY --from=install /app /app
RUN ln -s /app/node_modules/.bin/neox-prefix /usr/local/bin/neox-prefix && neox-prefix doctor
USER node
ENTRYPOINT ["neox-prefix"]
CMD ["--help"]
