#!/bin/sh
# Run export.yaml and follow it; exits as the export does. The same again goes on where it stopped.
set -eu
here=$(dirname "$0")
kubectl delete --ignore-not-found daskjob.kubernetes.dask.org/export
kubectl apply -f "$here/export.yaml"
# The operator makes the pod soon after; images are fetched before there is a log.
until kubectl logs -f pod/export-runner 2>/dev/null; do sleep 2; done
until code=$(kubectl get pod/export-runner -o jsonpath='{.status.containerStatuses[0].state.terminated.exitCode}') \
  && [ -n "$code" ]; do sleep 1; done
exit "$code"
