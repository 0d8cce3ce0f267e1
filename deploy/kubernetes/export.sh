#!/bin/sh
# Run export.yaml and follow it; exits as the export does. The same again goes on where it stopped.
set -eu
here=$(dirname "$0")
kubectl delete --ignore-not-found daskjob.kubernetes.dask.org/export
kubectl apply -f "$here/export.yaml"
# The operator makes the pod soon after.
until kubectl get pod/export-runner >/dev/null 2>&1; do sleep 1; done
kubectl wait --for=jsonpath='{.status.containerStatuses[0].started}'=true --timeout=30m pod/export-runner || true
kubectl logs -f pod/export-runner
until code=$(kubectl get pod/export-runner -o jsonpath='{.status.containerStatuses[0].state.terminated.exitCode}') \
  && [ -n "$code" ]; do sleep 1; done
exit "$code"
