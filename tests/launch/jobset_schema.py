"""What a JobSet may look like: our own short schema of the fields that we render.

Written for these tests after the fields of jobset.x-k8s.io/v1alpha2 (its custom resource
definition, August 2026): names, types, what is required, what is one of a few words. The Job
inside is not described here: tests validate it against the schemas that Kubernetes publishes.
"""

NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}


def strict(required, **properties):
    """An object with these properties and no others."""
    body = {"type": "object", "additionalProperties": False, "properties": properties}
    return body | {"required": required}


RULE = strict(
    ["action", "name"],
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action={
        "enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJob",
                 "RestartJobAndIgnoreMaxRestarts"]
    },
    onJobFailureReasons={
        "type": "array",
        "items": {"enum": ["BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes",
                           "MaxFailedIndexesExceeded", "PodFailurePolicy"]},
    },
    onJobFailureMessagePatterns={"type": "array", "items": {"type": "string"}},
    targetReplicatedJobs={"type": "array", "items": {"type": "string"}},
)  # fmt: skip
REPLICATED_JOB = strict(
    ["name", "template"],
    name=NAME,
    groupName={"type": "string"},
    replicas={"type": "integer", "minimum": 0},
    template={"type": "object", "required": ["spec"]},
)
JOBSET = strict(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=strict(
        ["name"],
        name=NAME,
        annotations={"type": "object", "additionalProperties": {"type": "string"}},
        labels={"type": "object", "additionalProperties": {"type": "string"}},
    ),
    spec=strict(
        ["replicatedJobs"],
        failurePolicy=strict(
            [],
            maxRestarts={"type": "integer", "minimum": 0},
            restartStrategy={"enum": ["Recreate", "BlockingRecreate", "InPlaceRestart"]},
            rules={"type": "array", "items": RULE},
        ),
        replicatedJobs={"type": "array", "items": REPLICATED_JOB, "minItems": 1},
        suspend={"type": "boolean"},
        ttlSecondsAfterFinished={"type": "integer", "minimum": 0},
    ),
)
