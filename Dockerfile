# The agent in a small image. It runs beside PostgreSQL, as PostgreSQL's user, and needs from the
# server's container (or host):
#   the data directory, read-only, under the same path (archive_status in it is what it follows)
#   the server's socket directory, or a dsn over TCP
#   /run/walkeeper shared with the server: the hooks reach the agent through the socket there
# The hooks themselves run in the server's container: install walkeeper there too (or this image's
# /opt/walkeeper, where its Python is the same).
# PostgreSQL's user has another number in every image: 999 in Debian-based ones, 70 on Alpine.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY walkeeper walkeeper
RUN python -m venv /opt/walkeeper \
    && /opt/walkeeper/bin/pip install --no-cache-dir --only-binary :all: --no-binary walkeeper . \
    && /opt/walkeeper/bin/pip uninstall -y pip

FROM python:${PYTHON}-slim
ARG POSTGRES_UID=999
ARG POSTGRES_GID=999
RUN groupadd --system --gid "$POSTGRES_GID" postgres \
    && useradd --system --uid "$POSTGRES_UID" --gid postgres --home-dir /var/lib/walkeeper postgres \
    && install -d -o postgres -g postgres -m 0750 /run/walkeeper /var/lib/walkeeper \
    && install -d -m 0755 /etc/walkeeper
COPY --from=build /opt/walkeeper /opt/walkeeper
ENV PATH=/opt/walkeeper/bin:$PATH
USER postgres
VOLUME ["/var/lib/walkeeper"]
STOPSIGNAL SIGTERM
# Asks the agent for /healthz, or whether it listens where [agent] http is off; not the repository:
# no LIST is paid for every 30 seconds. Where [agent] http has another port give it by the
# environment, WALKEEPER_AGENT_HTTP, which the check reads too; beyond the container the port can be
# reached only as "0.0.0.0:9188", with a token.
HEALTHCHECK --interval=30s --timeout=12s --start-period=30s \
    CMD ["python", "-I", "-m", "walkeeper.hooks.alive"]
ENTRYPOINT ["walkeeper"]
CMD ["agent"]
